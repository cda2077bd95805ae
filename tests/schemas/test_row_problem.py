"""Records of what is wrong with a row: one sentence, in parts, whole across processes."""

import pickle

from schemas.row_problem import FieldError, RowProblem, shown


def test_a_refused_field_and_its_place_make_one_line() -> None:
    error = FieldError("images[0]", "no such file", "check data.image_dir", shown("a.png"))
    assert str(error) == "images[0]='a.png': no such file; check data.image_dir"
    problem = RowProblem.of(error, "train.jsonl", 3)
    assert (problem.source, problem.severity) == ("train.jsonl:3", "error")
    assert str(problem) == f"train.jsonl:3: {error}"
    whole = RowProblem("train.jsonl", None, "ground_truth", "", "looks like fractions", "use pixels", "warning")
    assert str(whole) == "train.jsonl: ground_truth: looks like fractions; use pixels"


def test_a_refused_field_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(FieldError("f", "is odd", "mend it", "5")))
    assert (error.field, error.reason, error.remedy, error.value, str(error)) == (
        "f",
        "is odd",
        "mend it",
        "5",
        "f=5: is odd; mend it",
    )


def test_values_are_shown_short_and_on_one_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
    assert len(shown([1] * 100)) == 60
