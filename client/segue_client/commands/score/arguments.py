"""The arguments of `segue score`."""

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from segue_client.commands.options import Connection, check_new_file
from segue_client.commands.score.bad_rows import ERROR, Policy

Mode = Literal["texts", "lines", "windows", "records", "candidates"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """All arguments and options; raises click.UsageError if they conflict."""

    files: tuple[str, ...]
    texts: tuple[str, ...]
    connection: Connection
    lines: bool
    carry: bool
    window: int | None
    jsonl: bool
    field: str
    into: str
    bad_rows: Policy
    context: str | None
    candidates: tuple[str, ...]
    candidates_file: str | None
    ranking: Literal["sum", "mean"]
    unknown: Literal["replace", "refuse"]
    verbatim: bool
    begin: Literal["nothing", "begin"] | None
    end: Literal["nothing", "line-feed"] | None
    ticket_in: Path | None
    session: str | None
    inexact: bool
    ticket_out: Path | None
    no_resume: bool
    as_json: bool
    per_character: bool
    ranks: bool
    alternatives: int
    heatmap: bool | None
    html: Path | None
    sort: Literal["surprising", "expected"] | None
    by: Literal["mean", "sum"]
    top: int | None
    threshold: float | None
    running: bool
    progress: bool | None
    jobs: int

    def __post_init__(self) -> None:
        self._check_input()
        self._check_output()

    @property
    def mode(self) -> Mode:
        """How the input is divided."""
        if self.context is not None or self.candidates or self.candidates_file:
            return "candidates"
        if self.jsonl:
            return "records"
        if self.window or self.carry:
            return "windows"
        return "lines" if self.lines else "texts"

    def _check_input(self) -> None:
        mode = self.mode
        if mode == "candidates":
            self._refuse(self.files or self.texts, "--context replaces FILES and --text.")
            self._refuse(
                self.lines or self.carry or self.window or self.jsonl,
                "--context is one text: leave out --lines, --carry, --window and --jsonl.",
            )
            self._refuse(self.ranks or self.alternatives, "--ranks and --alternatives do not go with --context.")
            self._refuse(not (self.candidates or self.candidates_file), "Name what may follow with --candidate.")
            self._refuse(self.bad_rows != "stop", "--bad-rows is for lines, JSON lines and several files.")
            self._refuse(self.context is None, "Name the text before the candidates with --context.")
            return
        self._refuse(not (self.files or self.texts), "Name a file, - for standard input, or give a --text.")
        self._refuse(mode in {"windows", "records"} and self.texts, "--text is scored whole; put it into a file.")
        self._refuse(
            self.bad_rows != "stop" and (mode == "windows" or self.running),
            "--bad-rows goes with rows that are scored each on its own: leave --carry, --window and --running out, "
            "or go on with --unknown replace.",
        )
        self._refuse(self.carry and not self.lines, "--carry goes with --lines.")
        self._refuse(self.window and self.lines, "--window counts characters; leave --lines out.")
        self._refuse(self.jsonl and (self.lines or self.window), "--jsonl scores one field of each line.")
        self._refuse(self.files.count("-") > 1, "Standard input can be read once.")
        self._refuse(
            self.bad_rows == "keep" and self.jsonl and self.into == ERROR,
            f"--bad-rows keep adds a field {ERROR!r} to bad rows: name another one for the score with --into.",
        )

    def _check_output(self) -> None:
        mode = self.mode
        is_json = self.as_json or self.jsonl
        is_one_text = mode == "candidates" or (mode in {"texts", "windows"} and len(self.files) + len(self.texts) == 1)
        shows_text = self.heatmap or self.html
        has_rows = mode not in {"records", "candidates"}
        self._refuse(
            self.per_character and not is_json, "--per-character goes with --json; --heatmap shows it in colours."
        )
        self._refuse(self.ranks and not is_json, "--ranks goes with --json; --html shows them too.")
        self._refuse(self.alternatives and not (is_json or self.html), "--alternatives goes with --json or --html.")
        self._refuse(self.heatmap and is_json, "--heatmap is for a person, --json for a script: choose one.")
        self._refuse(shows_text and not has_rows, "--heatmap and --html show texts, lines and windows.")
        self._refuse((self.top or self.by != "mean") and not self.sort, "--top and --by go with --sort.")
        self._refuse(
            self.sort and self.jsonl, f"--sort does not go with --jsonl: sort its output, with {self._jq_sort()}"
        )
        self._refuse(self.sort and not has_rows, "--sort is for texts, lines and windows; --ranking is for candidates.")
        self._refuse(
            self.threshold is not None and mode == "candidates", "--threshold is for texts, lines and windows."
        )
        self._refuse(self.ticket_out and not is_one_text, "--ticket-out saves the state of one text.")
        self._refuse(self.session and not is_one_text, "--session continues with one text.")
        self._refuse(
            self.running and not (mode == "texts" and len(self.files) == 1 and not self.texts and not shows_text),
            "--running shows the progress of one FILE.",
        )
        self._refuse(self.threshold is not None and math.isnan(self.threshold), "--threshold is no number.")
        check_new_file("--ticket-out", self.ticket_out)
        check_new_file("--html", self.html)

    def _jq_sort(self) -> str:
        """Return the command that sorts what --jsonl writes; rows without a score come last where they can."""
        field = self.into if re.fullmatch(r"[A-Za-z_]\w*", self.into, re.ASCII) else json.dumps(self.into)
        backwards = " | reverse" if self.sort == "surprising" else ""
        return f"jq -cs {shlex.quote(f'sort_by(.{field}.perplexity){backwards}[]')}"

    def _refuse(self, condition: object, message: str) -> None:
        if condition:
            raise click.UsageError(message)
