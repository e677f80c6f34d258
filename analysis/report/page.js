"use strict";
// Click on a heading sorts its table: by data-sort where a cell has one, else by text; gaps last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      const sign = down ? -1 : 1;
      const key = (row) => {
        const cell = row.cells[column];
        const value = cell.dataset.sort;
        return value === undefined ? null : Number(value);
      };
      const text = (row) => row.cells[column].textContent.trim();
      const rows = Array.from(body.rows);
      const numeric = rows.some((row) => key(row) !== null);
      rows.sort((a, b) => {
        if (!numeric) {
          return sign * text(a).localeCompare(text(b), undefined, { numeric: true });
        }
        const x = key(a), y = key(b);
        if (x === null || y === null) {
          return (x === null) - (y === null);
        }
        return sign * (x - y);
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.forEach((row) => row.classList.remove("rule"));
      body.append(...rows);
    });
  });
}
