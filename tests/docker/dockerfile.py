"""Reads a Dockerfile: no more of the language than docker/Dockerfile uses, and whatever else it meets is an error.

https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Instruction", "Stage", "exec_form", "read_dockerfile"]

KNOWN = frozenset(
    {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}
)


@dataclass(frozen=True)
class Instruction:
    keyword: str
    text: str
    """What stands behind the keyword, on one line."""


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)
    parent: Stage | None = None

    def inherited(self) -> list[Instruction]:
        """The instructions of this stage behind those of the stages that it is made from."""
        return (self.parent.inherited() if self.parent else []) + self.instructions

    def all(self, keyword: str) -> list[str]:
        return [instruction.text for instruction in self.inherited() if instruction.keyword == keyword]

    def last(self, keyword: str) -> str:
        return self.all(keyword)[-1]

    @property
    def root(self) -> str:
        """The image that all of it stands on."""
        return self.parent.root if self.parent else self.base

    @property
    def environment(self) -> dict[str, str]:
        pairs = [re.fullmatch(r"(\w+)=(\S+)", pair) for text in self.all("ENV") for pair in text.split()]
        return {pair[1]: pair[2] for pair in pairs if pair}


def read_dockerfile(path: Path) -> dict[str, Stage]:
    """The stages by name, in their order. Arguments of the build have their defaults."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for instruction in _instructions(path.read_text("utf-8")):
        if instruction.keyword == "FROM":
            found = re.fullmatch(r"(\S+) AS (\S+)", instruction.text)
            assert found, instruction
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], found[1])
            stages[found[2]] = Stage(found[2], base, parent=stages.get(base))
        elif not stages:
            assert instruction.keyword == "ARG", instruction
            name, _, default = instruction.text.partition("=")
            arguments[name] = default
        else:
            stages[list(stages)[-1]].instructions.append(instruction)
    return stages


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    logical = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    instructions = [Instruction(*line.split(maxsplit=1)) for line in logical if line.strip()]
    assert all(instruction.keyword in KNOWN for instruction in instructions), instructions
    return instructions


def exec_form(text: str) -> list[str]:
    """``["a", "b"]``. Anything else would run in a shell, which keeps the signals for itself."""
    words = json.loads(text)
    assert isinstance(words, list)
    assert all(isinstance(word, str) for word in words)
    return words
