/** The report's look, light and dark, and the script that sorts its tables; all of it can be read without the script. */

export const style = `
:root { color-scheme: light dark; --page: #fff; --text: #1b1f24; --dim: #5b6470; --line: #d9dee5; --band: #f5f7fa; --good: #18794e; --bad: #b42318; --own: #fdf1ec; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --text: #e4e8ee; --dim: #9aa5b3; --line: #2e353f; --band: #1b2027; --good: #5cc48c; --bad: #ff8b7e; --own: #2b211e; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.7rem; }
h2 { margin: 2.75rem 0 .5rem; font-size: 1.25rem; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.02rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.dim { color: var(--dim); }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1.25rem; margin: .75rem 0; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .34rem .6rem; text-align: right; white-space: nowrap; }
th { background: var(--band); font-weight: 600; border-bottom: 1px solid var(--line); }
tr + tr td { border-top: 1px solid var(--line); }
th.text, td.text { text-align: left; }
td.wrap { white-space: normal; color: var(--dim); } td.wrap:not(:empty) { min-width: 9rem; } td.long { min-width: 18rem; }
tr.own td { background: var(--own); }
.good { color: var(--good); } .bad { color: var(--bad); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: ' \\2191'; } th[aria-sort=descending] button::after { content: ' \\2193'; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem 2.5rem; }
figure { margin: 0; min-width: 0; }
figcaption { color: var(--dim); margin-bottom: .25rem; max-width: 46rem; }
figure svg { display: block; width: 100%; max-width: 680px; height: auto; overflow: visible; }
.plot { overflow-x: auto; } .plot svg { min-width: 27rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .35rem 0; padding: 0; list-style: none; font-size: .86rem; }
.legend svg { display: inline-block; width: 26px; min-width: 0; height: 10px; margin-right: .4rem; vertical-align: baseline; }
@media print { body { max-width: none; } h2, h3, figure { break-inside: avoid; } }
`;

/** Makes headings buttons that sort by the cells' data-value. */
export const script = `
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement('button');
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener('click', () => {
      const down = heading.getAttribute('aria-sort') === 'ascending';
      for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
      heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === '' || y === '') return (x === '') - (y === '');
        const numbers = Number(x) - Number(y);
        const order = Number.isNaN(numbers) ? x.localeCompare(y) : numbers;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
`;
