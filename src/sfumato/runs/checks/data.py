"""Check the data sets of a plan by a few of their examples."""

from collections.abc import Iterator

from sfumato.runs.plans.data_sample import DataSample, has_place, has_segmentation, setting_meant
from sfumato.runs.plans.findings import Finding, first_line
from sfumato.runs.plans.plan import PREDICTED, PRESENT, Plan


def data_findings(plan: Plan, name: str, sample: DataSample) -> tuple[list[Finding], list[Finding]]:
    """The faults of a data set, and remarks about it."""
    try:
        count, classes, errors, examples = sample.count, sample.classes, sample.errors, sample.examples()
        sample.asked  # noqa: B018  # what a subset leaves out are names of classes
    except Exception as error:  # noqa: BLE001  # a data set of anyone's own raises whatever it trips over
        message = " ".join(str(error).split()) if isinstance(error, ValueError | OSError) else first_line(error)
        return [_about_data(plan, name, f"data set {name!r} cannot be read: {message}")], []
    unforeseen = [error for error in errors if not isinstance(error, ValueError)]
    if not count:
        return [_about_data(plan, name, f"data set {name!r} has no pictures")], []
    if unforeseen:  # a run would end at it
        return [_about_data(plan, name, f"data set {name!r} fails: {first_line(unforeseen[0])}")], []
    if not examples:
        return [_about_data(plan, name, f"none of {_extent(sample)} can be read, e.g.: {errors[0]}")], []
    missing = [example.path for example in examples if not example.path.is_file()]
    if len(missing) == len(examples):
        message = f"data set {name!r}: none of the pictures of {_extent(sample)} is there, e.g. {str(missing[0])!r}"
        return [_about_data(plan, name, message)], []
    notes = []
    if missing:
        message = f"data set {name!r}: of {len(examples)} pictures looked at, {len(missing)} are missing, e.g. "
        notes.append(_about_data(plan, name, message + repr(str(missing[0]))))
    if errors:
        message = f"data set {name!r}: of {sample.tried} examples looked at, {len(errors)} cannot be read, e.g.: "
        notes.append(_about_data(plan, name, f"{message}{errors[0]}"))
    if plan.data[name].targets == PRESENT and classes and not sample.any(lambda example: bool(example.targets)):
        message = f'data set {name!r}: none of {_extent(sample)} has a class to explain; write targets = "{PREDICTED}"'
        return [_about_data(plan, name, message)], notes
    return [], notes


def _about_data(plan: Plan, name: str, message: str) -> Finding:
    return Finding(("data", name, *setting_meant(plan.data[name].data, message)), message, data=name)


def _extent(sample: DataSample) -> str:
    return f"its {sample.count} examples" if sample.complete else f"{sample.tried} examples looked at"


def without_places(plan: Plan, name: str, sample: DataSample) -> Iterator[Finding]:
    """Protocols that need to know where a class is, on data without boxes or masks."""
    entry = plan.data[name]
    for protocol in entry.protocols:
        judge = plan.protocols[protocol].protocol
        if "truth" not in judge.needs or not any(
            protocol in combination.protocols for combination in plan.combinations() if combination.data == name
        ):
            continue
        what = f"{type(judge).__name__} needs to know where the class is"
        remedy = f"leave {protocol!r} out of the protocols of [data.{name}]"
        if entry.targets == PREDICTED:
            message = f'{what}, and that of a predicted class is not known; write targets = "{PRESENT}", or {remedy}'
        elif not sample.classes:
            message = f"{what}, and data set {name!r} has no classes; {remedy}"
        elif not sample.any(lambda example: any(has_place(example, label) for label in example.targets)):
            message = f"{what}, and {_extent(sample)} have neither boxes nor masks; {remedy}"
        elif getattr(judge, "ground", "") == "segmentation" and not sample.any(
            lambda example: any(has_segmentation(example, label) for label in example.targets)
        ):
            message = (
                f'{what} by a segmentation, and {_extent(sample)} have boxes only; write ground = "boxes", or {remedy}'
            )
        else:
            continue
        keys = ("data", name, "targets") if entry.targets == PREDICTED else ("data", name, "protocols")
        yield Finding(keys, message, data=name, protocol=protocol)
