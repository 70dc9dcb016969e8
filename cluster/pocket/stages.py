"""What is learnt when: the stages of the conversations, and each stage's shares of them."""

from dataclasses import dataclass

from cluster.pocket.conversations import (
    Task,
    explain,
    injected_thought,
    intentional_control,
    localization,
    open_question,
    prefill,
    strength_comparison,
    thought_repeat,
    thought_word,
    yes_bias,
)

Shares = tuple[tuple[Task, float], ...]

REPORTS: Shares = ((injected_thought, 0.6), (open_question, 0.2), (yes_bias, 0.2))
TASKS: Shares = (
    (injected_thought, 0.24),
    (open_question, 0.06),
    (yes_bias, 0.05),
    (thought_word, 0.25),
    (thought_repeat, 0.08),
    (intentional_control, 0.08),
    (localization, 0.15),
    (strength_comparison, 0.09),
)
LATE: Shares = (
    (injected_thought, 0.20),
    (open_question, 0.05),
    (yes_bias, 0.06),
    (thought_word, 0.13),
    (thought_repeat, 0.05),
    (intentional_control, 0.20),
    (localization, 0.24),
    (strength_comparison, 0.07),
)

EVEN: Shares = (
    (injected_thought, 0.14),
    (open_question, 0.04),
    (yes_bias, 0.05),
    (thought_word, 0.06),
    (thought_repeat, 0.17),
    (prefill, 0.24),
    (explain, 0.02),
    (intentional_control, 0.13),
    (localization, 0.10),
    (strength_comparison, 0.05),
)


def beside(shares: Shares, others: Shares) -> Shares:
    """The others take what the shares leave of the whole."""
    left = 1 - sum(share for _, share in shares)
    return (*shares, *((task, share * left) for task, share in others))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Conversations under injections: so many of so many rows in each step, and rows of plain language to keep it."""

    shares: Shares
    steps: int
    conversations: int
    rows: int
    kept: int
    flat: float  # of the steps at the full rate
    aim: float = 2.0  # weight of a squared cosine, beside nats


# Detection first, by itself: what is read under an injection is learnt sooner by a model that can name what is in it.
# Then more of what is learnt late: which sentence was injected, and to lean towards a word. To tell its own words comes
# last, at first nearly by itself: of answers alone it is not learnt, and so heads are led (conversations.match). What
# suffered from it, the line's repetition above all, is mended at the end.
STAGES = (
    Stage(shares=REPORTS, steps=800, conversations=2, rows=20, kept=16, flat=0.0),
    Stage(shares=TASKS, steps=600, conversations=4, rows=12, kept=12, flat=0.6),
    Stage(shares=LATE, steps=800, conversations=4, rows=12, kept=12, flat=0.6, aim=6.0),
    Stage(shares=beside(((prefill, 0.7),), LATE), steps=400, conversations=4, rows=12, kept=8, flat=0.9, aim=6.0),
    Stage(
        shares=beside(((prefill, 0.52), (explain, 0.02)), LATE),
        steps=400,
        conversations=5,
        rows=12,
        kept=10,
        flat=0.15,
        aim=6.0,
    ),
    Stage(shares=EVEN, steps=260, conversations=5, rows=12, kept=12, flat=0.0, aim=6.0),
)
