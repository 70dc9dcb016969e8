"""What the hash in the column `setting` stands for, and which prompts are the same text: read from a run's plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep.block import Block
from sweep.identity import digest, prompt_identity
from sweep.plan import load
from sweep.rows import setting_of
from sweep.store import Store
from sweep.trial import Report, Sampling, Template

CHATS = ("model", "plain")  # others are Jinja source


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the trials of one setting are asked."""

    template: Template
    sampling: Sampling
    report: Report

    @property
    def words(self) -> tuple[str, ...]:
        """Each part of it in a word or two, in a fixed order; what tells two settings apart is where these differ."""
        template, sampling = self.template, self.sampling
        chat = template.chat if template.chat in CHATS else f"own {digest('template', template.chat)[:6]}"
        return (
            f"template {chat}", "thinking" if template.thinking else "no thinking",
            "no system turn" if template.system is None else f"system turn {digest('system', template.system)[:6]}",
            f"top-p {sampling.top_p:g}",
            "tokens as the prompt has it" if sampling.max_tokens is None else f"{sampling.max_tokens} tokens",
            f"report {self.report}",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Of a run: `asking` by the column `setting`; `texts`, an identity of each prompt's text, by (protocol, name).

    Both are empty where the run has no plan.
    """

    asking: Mapping[str, Asking]
    texts: Mapping[tuple[str, str], str]


def read(store: Store) -> Plan:
    blocks: Sequence[Block] = load(store).blocks if store.list("plan") else ()
    texts = {(block.protocol, prompt.name): prompt for block in blocks for prompt in block.prompts}
    return Plan(
        asking={setting(block): _of(block) for block in blocks},
        texts={key: digest("prompt", prompt_identity(prompt)) for key, prompt in texts.items()},
    )


def setting(block: Block) -> str:
    """The column `setting` of a block's trials."""
    return setting_of(block.template, block.sampling, block.report)


def _of(block: Block) -> Asking:
    return Asking(template=block.template, sampling=block.sampling, report=block.report)
