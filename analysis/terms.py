"""What a report calls things: experiments, measures, arms and wordings, in the order in which it shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sweep.protocols import localization, strength_comparison, thought_or_text

PROTOCOLS = (
    "injected_thought", "open_question", "forced_identification", "yes_bias", "thought_or_text", "prefill",
    "localization", "strength_comparison", "intentional_control",
)  # fmt: skip
TITLES = {
    "injected_thought": "Injected thought",
    "open_question": "Open question",
    "forced_identification": "Forced identification",
    "yes_bias": "Yes-bias control",
    "thought_or_text": "Thought or text",
    "prefill": "A word put in its mouth",
    "localization": "Which sentence was injected",
    "strength_comparison": "Which injection was stronger",
    "intentional_control": "Thinking of a word at will",
}
QUESTIONS = {
    "injected_thought": "The model is told that a thought may be injected, and asked whether it detects one.",
    "open_question": "Nothing is said about injection; the model is asked what is on its mind.",
    "forced_identification": "The claim to detect a thought is put in the model's mouth. Can it name the concept?",
    "yes_bias": "Unrelated questions whose answer is no. A rise in yes under injection is a bias, not detection.",
    "thought_or_text": "A concept is injected while the model reads a line. Can it say what it thinks of, and still "
    "write the line down as it stands?",
    "prefill": "A word is put in the model's mouth, and it is asked whether it meant it. Does the word's vector, "
    "injected before it, make it the model's own?",
    "localization": "Five sentences are read, one of them under an injection. Which one? Asked as well what only "
    "stands out: a sentence that is found there too shows no introspection.",
    "strength_comparison": "Two sentences are read under one direction, the first at the strength shown and the other "
    "at half of it. Which had more?",
    "intentional_control": "A sentence is written while the model is to think of a word, or not to. How near is its "
    "residual stream to the word's vector, beyond that of other words?",
}

# -- measures ---------------------------------------------------------------------------------------------------------

LABELS = {
    "detected": "detected",
    "detected_and_identified": "detected and identified",
    "legible": "legible",
    "said_yes": "said yes",
    "identified_and_repeated": "identified and repeated",
    "identified": "identified",
    "chosen": "chosen among ten",
    "repeated": "line repeated",
    "apologised": "apologised",
    "intended": "claimed to have meant it",
    "located": "located",
    "ranked": "ranked",
    "claim_first": "claim before the word",
}
VERBS = {
    "detected": "said that it detected something",
    "detected_and_identified": "said so and named the concept",
    "identified": "named the concept",
    "said_yes": "said yes",
    "legible": "gave a legible answer",
    "chosen": "came nearest to the concept among ten words",
    "repeated": "wrote the line down letter for letter",
    "identified_and_repeated": "named the concept and wrote the line down",
    "intended": "claimed to have meant the word",
    "apologised": "called the word an accident",
    "located": "chose the injected sentence",
    "ranked": "chose the sentence with more",
}
MAIN: Mapping[str, tuple[str, ...]] = {  # what a protocol is about, in the order of its maps
    "injected_thought": ("detected", "detected_and_identified", "introspective_awareness"),
    "open_question": ("detected", "detected_and_identified", "aware_of_word"),
    "forced_identification": ("identified",),
    "yes_bias": ("said_yes",),
    "thought_or_text": ("identified_and_repeated", "identified", "chosen", "repeated"),
    "prefill": ("intended", "apologised"),
    "localization": ("located",),
    "strength_comparison": ("ranked",),
}
CHANCE = {  # the rate of a model that guesses
    ("thought_or_text", "chosen"): 1 / (1 + thought_or_text.OTHERS),
    ("localization", "located"): 1 / localization.SENTENCES,
    ("strength_comparison", "ranked"): 1 / strength_comparison.PROTOCOL.sentences,
}
ORDERS = {  # of the sentences, in which a pair or a five has to stand equally often
    "localization": localization.PROTOCOL.orders,
    "strength_comparison": strength_comparison.PROTOCOL.orders,
}
ODDS = {
    "logodds_yes": "log-odds of yes",
    "choice_logodds": "log-odds of the right one",
}

# -- arms -------------------------------------------------------------------------------------------------------------

ARM_LABELS = {
    "concept": "concept",
    "random": "random direction",
    "shuffled": "shuffled coordinates",
    "negated": "negated concept",
    "wrong_concept": "wrong concept",
    "none": "no injection",
}
ARMS = tuple(ARM_LABELS)

# -- wordings that are conditions -------------------------------------------------------------------------------------

CONDITIONS = ("localization", "strength_comparison", "intentional_control")  # every wording is a condition of its own
OPTIONAL = ("variant-", "format-")  # so is a wording whose name begins like this; all others are pooled
WORDINGS = {
    "injected": "asked for the injection",
    "salient": "asked what stands out",
    "abstract": "asked what is most abstract",
    "think": "think",
    "dont_think": "do not think",
    "control_there_is": "there is",
    "control_there_is_not": "there is not",
    "control_often": "I often think",
    "control_never": "I never think",
    "control_reward_self": "reward if I think",
    "control_punishment_self": "punishment if I think",
}
PAIRS = {  # of intentional control: towards the word, and away from it
    "told": ("think", "dont_think"),
    "reward or punishment": ("reward", "punishment"),
    "happy or sad": ("happy", "sad"),
    "good or bad donation": ("good_donation", "bad_donation"),
    "words only: existence": ("control_there_is", "control_there_is_not"),
    "words only: the speaker's thoughts": ("control_often", "control_never"),
    "words only: the speaker's incentive": ("control_reward_self", "control_punishment_self"),
}


def title(protocol: str) -> str:
    return TITLES.get(protocol, protocol.replace("_", " "))


def verb(measure: str) -> str:
    return VERBS.get(measure, measure.replace("_", " "))


def wording(name: str | None) -> str:
    """A condition in words; null is the wordings that are pooled."""
    return "usual wording" if name is None else WORDINGS.get(name, name.replace("_", " "))


def in_order(wordings: Iterable[str | None]) -> tuple[str | None, ...]:
    """The pooled ones first, then those known here, then the rest by name."""
    known = {name: number for number, name in enumerate(WORDINGS)}
    place = {name: (name is not None, known.get(name or "", len(known)), name or "") for name in wordings}
    return tuple(sorted(place, key=lambda name: place[name]))
