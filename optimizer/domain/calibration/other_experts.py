"""A preset for timings of experts of another size than its own figures are of."""

from optimizer.domain.presets import load_hardware, load_model
from optimizer.domain.presets.schema import HardwarePreset
from optimizer.errors import InputError


def preset_of_model(preset: HardwarePreset, like: str, model: str) -> HardwarePreset:
    """The preset with bytes and operations of the experts of a model, and times as they were.

    Raises InputError where the size of the model's experts, or that of the preset's, is not known.
    """
    own, of = preset.expert, load_model(model)
    if own is None:
        raise InputError(f"hardware {like} has no [expert] section to say whose bytes its figures are", "model")
    if not (of.hidden_size and of.expert_width):
        raise InputError(f"the size of the experts of model {model} is not known", "model")
    sizes = f"hidden_size {of.hidden_size}, expert_width {of.expert_width}"
    growing = preset.model_copy(update={"expert": own.model_copy(update={"scales": True})})
    grown = growing.for_expert(of.hidden_size, of.expert_width)
    if grown is growing or grown.expert is None:
        return preset
    source = f"that of model {of.name}, whose experts were timed: {sizes}; scales as in {like}"
    expert = grown.expert.model_copy(update={"source": source, "scales": own.scales})
    said = f"; bytes and operations are scaled to the experts of model {of.name}"
    sections = {name: getattr(grown, name) for name in ("compute", "dispatch", "combine")}
    scaled = {name: each.model_copy(update={"source": each.source + said}) for name, each in sections.items()}
    return grown.model_copy(update={"expert": expert, **scaled})


def without_other_experts(preset: HardwarePreset, like: str, kept: list[str]) -> tuple[HardwarePreset, list[str]]:
    """The preset, and the sections without timings, but for those whose times are of experts of another size.

    Raises InputError where a preset cannot be without such a section.
    """
    own, old = preset.expert, load_hardware(like).expert
    assert own is not None
    if own.scales or own == old:
        return preset, kept
    needed = [section for section in ("compute", "dispatch", "combine") if section in kept]
    if needed:
        raise InputError(
            f"times of {like} do not grow with the size of an expert: for another model time {', '.join(needed)}, too",
            "model",
        )
    left_out = [section for section in ("functional", "table") if section in kept]
    return preset.model_copy(update=dict.fromkeys(left_out)), [name for name in kept if name not in left_out]
