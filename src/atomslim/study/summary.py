"""A summary of a study in a few sentences."""

from collections.abc import Iterator, Sequence
from typing import Any

from atomslim.benchmarking.turns import Gain
from atomslim.report.page import number
from atomslim.study.names import STRATEGIES, blocks, finer, label, spelled
from atomslim.study.options import DownstreamOptions
from atomslim.study.results import FULL_MODEL, Results, Variant
from atomslim.validation.columns import failed


def sentences(results: Results) -> list[str]:
    """Say what was removed, its cost and gain, which blocks matter least, and how much of the study is done."""
    found = [_cut(results, count) for count in results.options.blocks]
    found += [_finer(results, name) for name in dict.fromkeys(map(finer, results.finer))]
    found += [_tuned(results, part) for part in results.options.downstream]
    return [*filter(None, found), *_physics(results), *_relevance(results), _state(results)]


def _cut(results: Results, count: int) -> str:
    """Return one sentence on a number of blocks; empty while there is nothing to say."""
    full, cut = results.parameters(FULL_MODEL), results.parameters(Variant("sliced", count))
    gains = [f"keep {_percent(cut / full)} of the weights"] if full and cut else []
    if count in results.speed_up:
        gains.append(_speed(results.speed_up[count]))
    costs = _costs(results, [one for one in results.variants if one.blocks == count])
    if not gains and not costs:
        return ""
    whole = "" if results.blocks is None else f" of {spelled(results.blocks).lower()}"
    noun = "blocks" if (results.blocks or count) > 1 else "block"
    return f"{spelled(count)}{whole} {noun} {'; '.join(filter(None, [' and '.join(gains), costs]))}."


def _speed(gain: Gain) -> str:
    """Say how much faster a cut runs; on a busy machine, only what FLOPs suggest."""
    if gain.reliable:
        return f"run {gain.median:.2g} times as fast"
    return (
        f"run maybe {gain.flops:.2g} times as fast, as FLOPs suggest (times differed by {gain.problem}, so the machine "
        "was busy: remove the folder cells/speed and run the study again when nothing else runs)"
    )


def _finer(results: Results, name: str) -> str:
    """Return one sentence on a cut finer than blocks; empty while there is nothing to say."""
    chosen = [one for one in results.finer if finer(one) == name]
    full, cut = results.parameters(FULL_MODEL), results.parameters(chosen[0].sliced)
    gains = [f"{_percent(cut / full)} of the weights"] if full and cut else []
    gain = results.finer_speed_up(chosen[0])
    gains += [] if gain is None else [f"{gain.median if gain.reliable else gain.flops:.2g} times as fast"]
    costs = _costs(results, chosen)
    if not gains and not costs:
        return ""
    return f"{name[0].upper()}{name[1:]}: {'; '.join(filter(None, [' and '.join(gains), costs]))}."


def _costs(results: Results, variants: Sequence[Variant]) -> str:
    """Say how the force error grows with every strategy; a random layer before training is left out."""
    chosen = [one for one in variants if one.strategy != "random"]
    if len(results.tasks) != 1:
        factors = [(one, results.growth(one)) for one in chosen]
        parts = [f"{value:.2g} {STRATEGIES[one.strategy]}" for one, value in factors if value is not None]
        many = f"force errors grow by these factors (geometric mean over {len(results.tasks)} tasks)"
        return f"{many}: {', '.join(parts)}" if parts else ""
    task = results.tasks[0]
    errors = [(one, results.reduced(one, task)) for one in chosen]
    parts = [f"{number(error.mean, 2)} meV/Å {STRATEGIES[one.strategy]}" for one, error in errors if error is not None]
    before = results.reduced(FULL_MODEL, task)
    if before is None or not parts:
        return ""
    others = [part.replace(" meV/Å", "") for part in parts[1:]]
    return f"forces err {number(before.mean, 2)} → {', '.join([parts[0], *others])}"


def _tuned(results: Results, part: DownstreamOptions) -> str:
    """Say what the best variant of every size achieves on a dataset."""
    found = [(one, error.mean) for one in results.tuned_variants(part) if (error := results.tuned(part, one))]
    best: dict[Any, tuple[Variant, float]] = {}
    for variant, value in found:
        if variant.cut not in best or value < best[variant.cut][1]:
            best[variant.cut] = (variant, value)
    if not best:
        return ""
    parts = [_reached(variant, value) for variant, value in best.values()]
    said = f"Fine-tuned on {part.name} with equal budgets, {part.target} err {', '.join(parts)} ({results.unit(part)})."
    mean = results.mean_baseline(part)
    if mean is None or not results.nothing_learned(part):
        return said
    return f"{said} Nothing was learned: predicting the mean errs {number(mean)} on validation, no model clearly less."


def _reached(variant: Variant, error: float) -> str:
    if variant.strategy == "full":
        return f"{number(error)} in full"
    what = finer(variant) if variant.blocks is None else f"with {blocks(variant.blocks)}"
    return f"at best {number(error)} {what} ({STRATEGIES[variant.strategy]})"


def _physics(results: Results) -> Iterator[str]:
    """Say which variants fail physics checks that the full model passes."""
    found = {one: set(failed(outcomes)) for one in results.variants if (outcomes := results.physics(one))}
    if not found:
        return
    before = found.pop(FULL_MODEL, set())
    lost = {label(one): sorted(broken - before) for one, broken in found.items() if broken - before}
    yield f"Of the checks of physics, the full model fails {', '.join(sorted(before)) or 'none'}."
    if found:
        parts = [f"{name} ({', '.join(names)})" for name, names in lost.items()]
        yield f"Cuts that fail more: {'; '.join(parts) or 'none'}."


def _relevance(results: Results) -> Iterator[str]:
    found = results.relevance
    if found is not None and len(found["blocks"]) > 2:
        shares = dict(zip(found["blocks"][1:], found["mix"]["gradcam"][1:], strict=True))
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        yield (
            f"Block {least} matters least ({_percent(shares[least])} of the relevance), block {most} most "
            f"({_percent(shares[most])})."
        )


def _state(results: Results) -> str:
    states = list(results.board.states().values())
    done, failed = states.count("done"), states.count("failed")
    if done == len(states):
        return f"All {done} cells are finished."
    return f"{done} of {len(states)} cells are finished" + (f", {failed} failed: see the end." if failed else ".")


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
