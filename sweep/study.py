"""A spec with every name in it resolved: models to identities, words to lists, wordings to prompts, axes to blocks."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sweep import checks, protocols, questions, stimuli, words
from sweep.block import Block
from sweep.grading.chosen import Graders, of_run
from sweep.identity import prompt_identity
from sweep.material import Draws
from sweep.models import SHIPPED, ModelError, ModelRequest, identify, newest_commit
from sweep.redact import redact
from sweep.sources import sources
from sweep.spec import (
    ExperimentTable,
    FractionsTable,
    ModelTable,
    RuleTable,
    Spec,
    SpecError,
    decode,
    nearest,
)
from sweep.trial import (
    Model,
    Prompt,
    Protocol,
    Question,
    Sampling,
    Source,
    StrengthRule,
    Template,
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A spec with every name resolved: what a run is planned from."""

    spec: Spec
    blocks: tuple[Block, ...]
    models: tuple[Model, ...]
    graders: Graders
    warnings: tuple[str, ...]


Commits = Mapping[tuple[str, str], str]  # by a model's name and repository: where a run has it


def read(path: Path, commits: Callable[[str], Commits] = lambda _: {}) -> Study:
    """Decode and resolve a spec file. `commits` of the run of a study's name: a model without a revision in the spec is
    taken at the one that is there. Raises SpecError with every problem, its path in the file and a hint."""
    if not path.is_file():
        raise SpecError([f"no such file; write one with: sweep init {path}"], str(path))
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise SpecError([f"not UTF-8 text: {error.reason} at byte {error.start}"], str(path)) from error
    if redact(text) != text:  # it is kept in the run, byte for byte
        raise SpecError(["it holds a password or the value of a secret variable: name the variable"], str(path))
    return parse(text, folder=path.parent, source=str(path), commits=commits)


def parse(
    text: str, *, folder: Path = Path(), source: str = "spec", commits: Callable[[str], Commits] = lambda _: {}
) -> Study:
    """As `read`, from text; files that the spec names are relative to `folder`."""
    spec = decode(text, source)
    return _Resolver(spec, folder, source, commits(spec.name)).study()


class _Resolver:
    """Collects problems and warnings while it looks names up; nothing is raised before the end."""

    def __init__(self, spec: Spec, folder: Path, source: str, commits: Commits) -> None:
        self.spec, self.folder, self.source, self.commits = spec, folder, source, commits
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def study(self) -> Study:
        self.stimuli = self._stimuli()
        self.template = self._template()
        self.baseline = self._words(self.spec.baseline, "baseline")
        self.sentences = self.stimuli.sentences
        if self.spec.sentences is not None:
            self.sentences = self._words(self.spec.sentences, "sentences")
        self.sources = sources(self.spec, self.folder, self.problems)
        self.graders = self._graders()
        models = [self._model(i, table) for i, table in enumerate(self.spec.models)]
        self._unique([table.name for table in self.spec.models], "models")
        self._one_declaration()
        found = [model for model in models if model]
        blocks = [block for model in found for block in self._model_blocks(model)]
        if self.problems:
            raise SpecError(list(dict.fromkeys(self.problems)), self.source)
        warnings = tuple(dict.fromkeys(self.warnings))
        return Study(spec=self.spec, blocks=tuple(blocks), models=tuple(found), graders=self.graders, warnings=warnings)

    def _stimuli(self) -> stimuli.Stimuli:
        path = self.folder / self.spec.stimuli if self.spec.stimuli else None
        try:
            return stimuli.load(path, own=self._own_sections())
        except (ValueError, OSError) as error:
            self.problems.append(f"stimuli: {error}")
            return stimuli.load(None)

    def _own_sections(self) -> set[str]:
        """What protocols of one's own ask for beyond the shipped sections; those that do not load are told of later."""
        found: set[str] = set()
        for table in self.spec.experiments:
            with contextlib.suppress(ValueError, ImportError):
                found.add(protocols.get(table.protocol).stimuli)
        return found

    def _graders(self) -> Graders:
        try:
            return of_run(self.spec.grader, self.folder)
        except ValueError as error:
            self.problems.append(f"grader: {error}")
            return of_run("rules", self.folder)

    def _template(self) -> Template:
        table = self.spec.template
        chat = table.chat
        if chat not in ("model", "plain"):
            file = self.folder / chat
            if not file.is_file():
                self.problems.append(
                    f'template.chat: {chat!r} is neither "model" nor "plain" nor a file of Jinja source'
                )
            else:
                chat = file.read_text()
        return Template(chat=chat, thinking=table.thinking, system=table.system)

    def _model(self, i: int, table: ModelTable) -> Model | None:
        path = self._place(table.path or table.name)
        kept = None if table.revision else self.commits.get((table.name, path))
        if kept is not None and (newest := newest_commit(path)) not in (None, kept):
            goes_on = f"{path} has moved to {newest:.12}, and this run goes on with {kept:.12}"
            self.warnings.append(f'models[{i}]: {goes_on}; for the newer one say revision = "{newest}"')
        request = ModelRequest(
            name=table.name,
            path=path,
            revision=table.revision or kept,
            dtype=table.dtype,
            quantisation=table.quantisation,
            trust_remote_code=table.trust_remote_code,
            engine=table.engine,
        )
        try:
            return identify(request)
        except ModelError as error:
            self.problems.append(f"models[{i}].{error.key}: {error}")
            return None

    def _place(self, path: str) -> str:
        """A folder beside the spec, as every path in it; else a name or a repository id."""
        beside = self.folder / path
        return str(beside.resolve()) if path not in SHIPPED and beside.is_dir() else path

    def _words(self, value: list[str] | str, where: str) -> tuple[str, ...]:
        if isinstance(value, str):
            try:
                return words.word_list(value)
            except (KeyError, ValueError) as error:
                self.problems.append(f"{where}: {error.args[0]}")
                return ()
        if not value:
            self.problems.append(f"{where}: the list is empty; name at least one word")
        for word in value:
            if not word.strip() or not word.isprintable() or len(word) > 200:
                self.problems.append(f"{where}: {word!r:.60} is not a word (printable text of 1 to 200 characters)")
        self._unique(value, where)
        return tuple(value)

    def _unique(self, values: Sequence[str], where: str) -> None:
        seen: dict[str, str] = {}
        for value in values:
            if value.lower() in seen:
                self.problems.append(f"{where}: {value!r} stands twice (also as {seen[value.lower()]!r}); remove one")
            seen[value.lower()] = value

    def _model_blocks(self, model: Model) -> Iterator[Block]:
        for i, table in enumerate(self.spec.experiments):
            where = f"experiments[{i}]"
            protocol = self._protocol(table, where)
            if protocol:
                yield from self._experiment(model, table, protocol, where)

    def _protocol(self, table: ExperimentTable, where: str) -> Protocol | None:
        try:
            return protocols.get(table.protocol)
        except (KeyError, ValueError, ImportError) as error:
            self.problems.append(f"{where}.protocol: {error.args[0]}")
            return None

    def _experiment(self, model: Model, table: ExperimentTable, protocol: Protocol, where: str) -> Iterator[Block]:
        asked = self._questions(table, protocol, where)
        items = tuple(question.name for question in asked) if protocol.questions else self._items(table, where)
        table = table if "arms" in table.model_fields_set or not asked else table.model_copy(update={"arms": ["none"]})
        layers = self._layers(table, model, where)
        arms = tuple(arm for arm in table.arms if arm != "none")
        self._unique(table.arms, f"{where}.arms")
        self._unique(table.spans, f"{where}.spans")
        strengths = tuple(
            StrengthRule(rule=s.rule, at=s.at) if isinstance(s, RuleTable) else s for s in table.strengths
        )
        if len(set(strengths)) < len(strengths):
            self.problems.append(f"{where}.strengths: a strength stands twice; remove one")
        prompts = self._prompts(table, protocol, where)
        self._check(table, model, items, layers, where)
        self.problems += checks.problems(table, protocol, prompts, len(self.sentences), where)
        self.problems += checks.of_questions(table, protocol, prompts, asked, where)
        self.warnings += checks.warnings(table, protocol, len(items), asked, where)
        if not (items and prompts) or (arms and not layers):
            return
        shared = Block(
            model=model,
            template=self.template,
            sampling=Sampling(**(table.sampling or self.spec.sampling).model_dump()),
            protocol=table.protocol,
            protocol_version=protocol.version,
            report=table.report,
            norm=table.norm,
            mode=table.mode,
            vector_prompt=self.spec.vector_prompt or self.stimuli.vector_prompt,
            baseline=self.baseline,
            sentences=self.sentences if protocol.sentences else (),
            shading=self._words(self.spec.shading, "shading") if protocol.reads else (),
            draws=Draws(
                sentences=protocol.sentences, orders=protocol.orders, others=protocol.others, reads=protocol.reads
            ),
            prompts=prompts,
            items=items,
            arms=("none",),
            layers=(None,),
            strengths=(None,),
            spans=("protocol",),
            repeats=tuple(range(table.control_repeats)),
            questions=asked,
            direction=self._direction(table, where),
            states=table.states,
            sources=tuple(source for name, source in self.sources.items() if source and name in items),
            candidates=items,
            shard_size=self.spec.shard_size,
        )
        if arms:
            grid = {"layers": layers, "strengths": strengths, "spans": tuple(table.spans)}
            yield replace(shared, arms=arms, repeats=tuple(range(table.repeats)), **grid)
        if "none" in table.arms:
            yield shared

    def _questions(self, table: ExperimentTable, protocol: Protocol, where: str) -> tuple[Question, ...]:
        if table.questions is None:
            return ()
        try:
            return questions.some(questions.load(table.questions, self.folder), table.limit)
        except ValueError as error:
            self.problems.append(f"{where}.questions: {error}")
            return ()

    def _direction(self, table: ExperimentTable, where: str) -> Source | None:
        if table.direction is not None and table.direction not in self.sources:
            known = nearest(table.direction, list(self.sources))
            self.problems.append(f"{where}.direction: no direction {table.direction!r}{known}")
        return self.sources.get(table.direction or "")

    def _items(self, table: ExperimentTable, where: str) -> tuple[str, ...]:
        """The experiment's own concepts, among them any direction by its name; else the study's and all directions, but
        for those that an experiment injects in place of its items' own: these are no concepts."""
        if table.concepts is not None:
            return self._words(table.concepts, f"{where}.concepts")
        items = self._words(self.spec.concepts, "concepts")
        instead = {other.direction for other in self.spec.experiments}
        return (*items, *(name for name in self.sources if name not in items and name not in instead))

    def _prompts(self, table: ExperimentTable, protocol: Protocol, where: str) -> tuple[Prompt, ...]:
        known = {prompt.name: prompt for prompt in self.stimuli.prompts(protocol.stimuli)}
        if not known:
            self.problems.append(f"{where}: the stimuli have no prompts in section {protocol.stimuli!r}")
        names = list(self.stimuli.usual(protocol.stimuli))
        if table.prompts is not None:
            names = [name for asked in table.prompts for name in fnmatch.filter(known, asked) or [asked]]
        self._unique(names, f"{where}.prompts")
        for name in names:
            if name not in known:
                self.problems.append(f"{where}.prompts: no wording {name!r}{nearest(name, list(known))}")
        found = tuple(known[name] for name in names if name in known)
        texts = {prompt_identity(prompt): prompt.name for prompt in found}
        for prompt in found:
            if texts[prompt_identity(prompt)] != prompt.name:
                twin = texts[prompt_identity(prompt)]
                self.problems.append(f"{where}.prompts: {prompt.name!r} and {twin!r} have the same text; name one")
        return found

    def _layers(self, table: ExperimentTable, model: Model, where: str) -> tuple[int, ...]:
        if table.layers == "all":
            return tuple(range(model.layers))
        if isinstance(table.layers, FractionsTable):
            return tuple(dict.fromkeys(int(f * model.layers + 1e-9) for f in table.layers.fractions))
        assert not isinstance(table.layers, str)
        for layer in table.layers:
            if not 0 <= layer < model.layers:
                limit = f"model {model.name!r} has layers 0 to {model.layers - 1}"
                self.problems.append(f"{where}.layers: {layer} is out of range; {limit}")
        self._unique([str(layer) for layer in table.layers], f"{where}.layers")
        if not table.layers:
            self.problems.append(f'{where}.layers: the list is empty; name layers, or "all"')
        return tuple(table.layers)

    def _one_declaration(self) -> None:
        """What is declared before the data is one cell a protocol."""
        cells: dict[str, set[tuple[int, float]]] = {}
        for table in self.spec.experiments:
            if table.declared:
                cells.setdefault(table.protocol, set()).add((table.declared.layer, table.declared.strength))
        for protocol, found in cells.items():
            if len(found) > 1:
                self.problems.append(f"experiments: {protocol} declares {len(found)} different cells; declare one")

    def _check(
        self, table: ExperimentTable, model: Model, items: tuple[str, ...], layers: tuple[int, ...], where: str
    ) -> None:
        shared = {item.lower() for item in items} & {word.lower() for word in self.baseline}
        if shared:
            some = ", ".join(sorted(shared)[:5])
            self.warnings.append(f"{some}: concept and baseline word at once, so its vector is slightly shrunken")
        if "wrong_concept" in table.arms and len(items) < 2:
            self.problems.append(f"{where}.arms: wrong_concept needs at least two concepts")
        if set(table.arms) - {"none"} and not self.baseline and not self.spec.directions:
            self.problems.append("baseline: needed for concept vectors")
        if not any("none" in other.arms for other in self.spec.experiments if other.protocol == table.protocol):
            self.warnings.append(f"{where}: {table.protocol} has no arm 'none', so nothing to compare its rates with")
        if len(items) < 25:
            self.warnings.append(f"{where}: {len(items)} concepts; intervals over concepts want 25 or more")
        if (
            table.declared
            and layers
            and (table.declared.layer not in layers or table.declared.strength not in table.strengths)
        ):
            self.problems.append(
                f"{where}.declared: layer {table.declared.layer}, strength {table.declared.strength:g} not in the grid"
            )
