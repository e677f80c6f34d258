"""The tables of a paper, as `analysis.table.Table` objects."""

from analysis.summary import summarise, summary_frame
from analysis.tables.candidates import candidates_table
from analysis.tables.cost import cost_frame, cost_table
from analysis.tables.evidence import evidence_table, power_table
from analysis.tables.main import ablation_table, console_table, main_table
from analysis.tables.protocol import protocol_frame, protocol_lines, protocol_table
from analysis.tables.slices import slice_table

__all__ = [
    "ablation_table",
    "candidates_table",
    "console_table",
    "cost_frame",
    "cost_table",
    "evidence_table",
    "main_table",
    "power_table",
    "protocol_frame",
    "protocol_lines",
    "protocol_table",
    "slice_table",
    "summarise",
    "summary_frame",
]
