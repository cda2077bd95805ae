"use strict";
// Shows the tasks of one outcome; without scripts all of them are there.
const filter = document.getElementById("filter");
if (filter) {
  const cases = [...document.querySelectorAll("[data-outcome]")];
  const choose = () => {
    for (const each of cases) each.hidden = filter.value !== "" && each.dataset.outcome !== filter.value;
    document.getElementById("shown").textContent = `${cases.filter((each) => !each.hidden).length} shown`;
  };
  filter.addEventListener("change", choose);
}
