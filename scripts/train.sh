#!/usr/bin/env bash
# The start that users of the published system know: three paths in the environment, and what its launch script set.
#
#   MODEL_PATH=/models/start TRAIN_FILES=train.jsonl VAL_FILES=val.jsonl scripts/train.sh
#   MODEL_PATH=... TRAIN_FILES=... VAL_FILES=... scripts/train.sh --dry            # checks all of it, starts nothing
#   MODEL_PATH=... TRAIN_FILES=... VAL_FILES=... scripts/train.sh trainer.epochs=1 # any setting of this project
#
# CONFIG is the file that all else comes from: configs/published.yaml, the published script's values. With OLD_CONFIG, a
# configuration of the published system, `pointvg config import` makes NEW_CONFIG (imported.yaml) from it, and further
# words are settings by their published names: worker.rollout.n=5. docs/migrating.md has the table of both.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
POINTVG="${POINTVG:-$(if [ -x "$ROOT/.venv/bin/pointvg" ]; then echo "$ROOT/.venv/bin/pointvg"; else echo pointvg; fi)}"

fail() {
  echo "train.sh: $1" >&2
  exit 2
}

# What of the environment becomes which setting: here, and by its published name for OLD_CONFIG.
SETTINGS="
MODEL_PATH               model.path                         worker.actor.model.model_path
TRAIN_FILES              data.train_files                   data.train_files
VAL_FILES                data.validation_files              data.val_files
IMAGE_DIR                data.image_dir                     data.image_dir
MAX_PIXELS               data.max_pixels                    data.max_pixels
ROLLOUT_BATCH_SIZE       rollout.tasks_per_step             data.rollout_batch_size
ROLLOUT_N                rollout.samples_per_task           worker.rollout.n
TEMPERATURE              rollout.sampling.temperature       worker.rollout.temperature
TOP_P                    rollout.sampling.top_p             worker.rollout.top_p
LR                       learner.optimiser.lr               worker.actor.optim.lr
MAX_GRAD_NORM            learner.optimiser.max_grad_norm    worker.actor.max_grad_norm
KL_COEF                  algorithm.kl.coefficient           algorithm.kl_coef
KL_TYPE                  algorithm.kl.controller            algorithm.kl_type
KL_TARGET                algorithm.kl.target                algorithm.kl_target
KL_HORIZON               algorithm.kl.horizon               algorithm.kl_horizon
ADV_IMPORTANCE_MOMENTUM  algorithm.adaptive.momentum        algorithm.adv_importance_momentum
ADV_IMPORTANCE_CLIP_MIN  algorithm.adaptive.clip_min        algorithm.adv_importance_clip_min
ADV_IMPORTANCE_CLIP_MAX  algorithm.adaptive.clip_max        algorithm.adv_importance_clip_max
TOTAL_EPOCHS             trainer.epochs                     trainer.total_epochs
VAL_FREQ                 validation.every                   trainer.val_freq
SAVE_FREQ                checkpoint.every                   trainer.save_freq
SAVE_LIMIT               checkpoint.keep                    trainer.save_limit
EXPERIMENT_NAME          run.name                           trainer.experiment_name
PROJECT_NAME             run.folder                         trainer.project_name
"

command=train
words=()
for word in "$@"; do
  case "$word" in
    --dry | --dry-run) command=check ;;
    -*) fail "$word: no such option; there is --dry, and settings as SECTION.FIELD=VALUE" ;;
    *) words+=("$word") ;;
  esac
done
for name in MODEL_PATH TRAIN_FILES VAL_FILES; do
  [ -n "${!name:-}" ] || fail "$name is not set; say where it is: MODEL_PATH=... TRAIN_FILES=... VAL_FILES=... $0"
done

given=()
while read -r name ours published; do
  value="${!name:-}"
  [ -n "$value" ] || continue
  if [ -n "${OLD_CONFIG:-}" ]; then
    key="$published"
  else
    key="$ours"
    if [ "$name" = PROJECT_NAME ]; then value="runs/$value"; fi
  fi
  case "$name" in # texts in quotes, so that YAML reads no more into them
    *_PATH | *_FILES | *_DIR | *_NAME | KL_TYPE) value="'${value//\'/\'\'}'" ;;
  esac
  given+=("$key=$value")
done < <(grep . <<<"$SETTINGS")

if [ -n "${OLD_CONFIG:-}" ]; then
  CONFIG="${NEW_CONFIG:-imported.yaml}"
  "$POINTVG" config import "$OLD_CONFIG" "${given[@]}" "${words[@]}" --out "$CONFIG" --overwrite
  given=() words=()
fi
exec "$POINTVG" "$command" --config "${CONFIG:-$ROOT/configs/published.yaml}" "${given[@]}" "${words[@]}"
