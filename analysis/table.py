"""A table is data; consoles, Markdown, CSV, LaTeX and HTML render it.

All text may come from users' YAML, item titles or a language model, so every renderer escapes it.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pandas as pd

if TYPE_CHECKING:
    import rich.table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': r"\textquotedbl{}",
    "'": "'",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u00a0": "~",
    "\u00a7": r"\S{}",
    "\u2013": "--",
    "\u2014": "---",
    "\u2026": r"\dots{}",
    "\u2212": r"$-$",
    "\u00b1": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u00b7": r"$\cdot$",
    "\u2264": r"$\leq$",
    "\u2265": r"$\geq$",
    "\u2191": r"$\uparrow$",
    "\u2193": r"$\downarrow$",
    "\u2020": r"$\dagger$",
    "\u2021": r"$\ddagger$",
    "\u0394": r"$\Delta$",
    "\u03b1": r"$\alpha$",
    "\u03b2": r"$\beta$",
    "\u2192": r"$\rightarrow$",
    "\u221e": r"$\infty$",
}
# Latin letters that T1-encoded fonts have; anything else is named by its code point.
_T1 = re.compile(r"[\u00c0-\u017e]")
_T1_LACKING = frozenset("\u0126\u0127\u0138\u013f\u0140\u0149\u0166\u0167\u017f\u0108\u0109\u0110\u0111")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")


def latex_escape(text: str) -> str:
    """Text as LaTeX source that compiles under pdflatex with T1 fonts."""
    out = []
    for char in text:
        if char in _LATEX:
            out.append(_LATEX[char])
        elif char in "\n\r\t":
            out.append(" ")
        elif " " <= char <= "~" or (_T1.match(char) and char not in _T1_LACKING):
            out.append(char)
        else:
            out.append(f"[U+{ord(char):04X}]")
    return "".join(out)


def _latex_row(cells: Iterable[str]) -> str:
    """Cells as a row; the rule or line break before it would take a first ``[`` or ``*`` for its option."""
    row = " & ".join(cells) + r" \\"
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def markdown_escape(text: str) -> str:
    """Text as one line of Markdown; HTML in it stays text."""
    plain = " ".join(text.split())
    return _MARKDOWN.sub(r"\\\1", html.escape(plain, quote=False))


def csv_safe(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _compact(text: str) -> str:
    """The same number in fewer columns, for terminals."""
    return (
        text.replace(" \u00b1 ", "\u00b1").replace(" %", "%").removesuffix(" \u2191").removesuffix(" \u2193")
    )


def csv_text(frame: pd.DataFrame) -> str:
    """CSV of a frame: 10 significant digits, formulas defused."""
    out = io.StringIO()
    safe = frame.copy()
    for name in safe.columns:
        if safe[name].dtype == object:
            safe[name] = safe[name].map(csv_safe)
    safe.to_csv(out, index=False, float_format="%.10g", lineterminator="\n")
    return out.getvalue()


@dataclass(frozen=True)
class Cell:
    """One entry: plain text, emphasis, and a value to sort by (None: by the text)."""

    text: str
    bold: bool = False
    underline: bool = False
    sort: float | None = None


@dataclass(frozen=True)
class Column:
    """Heading and alignment (``l`` or ``r``)."""

    name: str
    align: str = "r"


@dataclass(frozen=True)
class Table:
    """Rows of cells with a caption.

    Attributes
    ----------
    name : str
        File stem and LaTeX label.
    title, caption : str
    columns : tuple of Column
    rows : tuple of tuple of Cell
    groups : tuple of int
        Rows before which a rule is drawn.
    notes : tuple of str
        Missing cells, differing users and other reservations.
    frame : DataFrame
        The numbers behind the cells at full precision; this is what CSV holds.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown with caption and notes."""

        def show(cell: Cell) -> str:
            text = markdown_escape(cell.text)
            text = f"<u>{text}</u>" if cell.underline and text else text
            return f"**{text}**" if cell.bold and text else text

        lines = [f"**{markdown_escape(self.title)}.** {markdown_escape(self.caption)}", ""]
        lines.append("| " + " | ".join(markdown_escape(c.name) for c in self.columns) + " |")
        lines.append("|" + "|".join("---:" if c.align == "r" else ":---" for c in self.columns) + "|")
        lines += ["| " + " | ".join(show(c) for c in row) + " |" for row in self.rows]
        if self.notes:
            lines += ["", *(f"- {markdown_escape(n)}" for n in self.notes)]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """The numbers as CSV (10 significant digits), without emphasis or rounding for print."""
        return csv_text(self.frame)

    def to_latex(self) -> str:
        """A floating table, shrunk where it is wider than the text; needs ``booktabs`` and ``graphicx``."""

        def show(cell: Cell) -> str:
            text = latex_escape(cell.text)
            text = rf"\underline{{{text}}}" if cell.underline and text else text
            return rf"\textbf{{{text}}}" if cell.bold and text else text

        spec = "".join(c.align for c in self.columns)
        notes = "".join(f" {latex_escape(n.rstrip('.'))}." for n in self.notes)
        lines = [
            "% needs \\usepackage[T1]{fontenc}, \\usepackage{booktabs} and \\usepackage{graphicx}",
            r"\begin{table*}[t]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3.5pt}",
            rf"\caption{{\textbf{{{latex_escape(self.title)}.}} {latex_escape(self.caption)}{notes}}}",
            rf"\label{{tab:{re.sub('[^A-Za-z0-9-]+', '-', self.name)}}}",
            # No line break before the tabular: it would be a space in the box.
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"
            rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
            r"\toprule",
            _latex_row(latex_escape(c.name) for c in self.columns),
            r"\midrule",
        ]
        for number, row in enumerate(self.rows):
            if number in self.groups and number:
                lines.append(r"\midrule")
            lines.append(_latex_row(show(c) for c in row))
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table*}"]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """A ``<table class="sortable">`` with caption and notes, everything escaped."""

        def show(cell: Cell, column: Column) -> str:
            text = html.escape(cell.text)
            text = f"<u>{text}</u>" if cell.underline else text
            text = f"<b>{text}</b>" if cell.bold else text
            sort = "" if cell.sort is None or cell.sort != cell.sort else f' data-sort="{cell.sort:.10g}"'
            return f'<td class="{column.align}"{sort}>{text}</td>'

        head = "".join(f'<th scope="col" class="{c.align}">{html.escape(c.name)}</th>' for c in self.columns)
        body = []
        for number, row in enumerate(self.rows):
            rule = ' class="rule"' if number in self.groups and number else ""
            cells = "".join(show(c, k) for c, k in zip(row, self.columns, strict=True))
            body.append(f"<tr{rule}>{cells}</tr>")
        notes = "".join(f"<li>{html.escape(n)}</li>" for n in self.notes)
        return (
            f'<figure class="table" id="table-{html.escape(self.name)}">'
            f"<figcaption><b>{html.escape(self.title)}.</b> {html.escape(self.caption)}</figcaption>"
            f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(self.title)}">'
            f'<table class="sortable"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
            + (f'<ul class="notes">{notes}</ul>' if notes else "")
            + "</figure>\n"
        )

    def to_rich(self) -> rich.table.Table:
        """The table for a console; brackets in names are text, not markup."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        shown = RichTable(
            title=Text(self.title),
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        for column in self.columns:
            justify: Literal["left", "right"] = "right" if column.align == "r" else "left"
            shown.add_column(Text(column.name), justify=justify, overflow="fold")
        for number, row in enumerate(self.rows):
            if number in self.groups and number:
                shown.add_section()
            styles = [
                " ".join(s for s, on in (("bold", c.bold), ("underline", c.underline)) if on) for c in row
            ]
            shown.add_row(*(Text(_compact(c.text), style=s) for c, s in zip(row, styles, strict=True)))
        shown.caption = Text("\n".join([self.caption, *self.notes]))
        return shown
