"use strict";
// Shows the rows that all three choices let through; without scripts all of them are there.
const choices = ["split", "pointing", "problems"].map((name) => document.getElementById(name));
const rows = [...document.querySelectorAll("article")];
const choose = () => {
  for (const row of rows) row.hidden = choices.some((each) => each.value !== "" && row.dataset[each.id] !== each.value);
  document.getElementById("shown").textContent = `${rows.filter((row) => !row.hidden).length} shown`;
};
for (const each of choices) each.addEventListener("change", choose);
choose();
