"""The tables in the READMEs and the details of results/, from expected.yaml and results.jsonl alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ebm_lightning.reproduction.claims import Claim, claims
from ebm_lightning.reproduction.results import FILE, Record, load, locked, of_claim
from ebm_lightning.reproduction.status import KINDS, brief, count, of_seed, ours, status, statuses, summary
from ebm_lightning.runs.files import write_atomically, write_between

BEGIN, END = "<!-- results: written by `ebm reproduce` -->", "<!-- end of results -->"
CLAIM_COLUMNS = ("claim", "paper", "target", "ours", "seeds", "status")
MEASUREMENT_COLUMNS = ("measurement", "paper", "ours", "seeds", "status")
LEGEND = (
    "± is the standard deviation over seeds, or the standard error if there is one seed; [ ] are the ends of an "
    "interval; a claim is missed by the distance of its worst seed from the target. "
    "A paper's number is unverified if it was read in a secondary source. "
    "Protocol, preprocessing, source, commits and the value of each seed: [details]({})."
)
Place = tuple[Path, str, Callable[[], list[str]]]
"""A file, the marker at which a table begins in it, and what makes the table's lines."""


def table(folder: Path, details: str = "results/details.md") -> list[str]:
    """The lines between a README's markers: the claims, the measurements in a fold, and a link to the details."""
    every, records = claims(folder), load(folder)
    targets = [claim for claim in every if claim.has_target]
    others = [claim for claim in every if not claim.has_target]
    lines = [*_head(CLAIM_COLUMNS), *(_row(claim, records) for claim in targets)] if targets else []
    if others:
        rows = [*_head(MEASUREMENT_COLUMNS), *(_row(claim, records) for claim in others)]
        lines += ["", "<details>", f"<summary>Measurements ({len(others)})</summary>", "", *rows, "", "</details>"]
    return [*lines, "", LEGEND.format(details)]


def joint_table(chosen: Mapping[Path, Sequence[Claim]]) -> list[str]:
    """The claims and then the measurements of several experiments, with a first column that names the experiment."""
    records = {folder: load(folder) for folder in chosen}
    lines: list[str] = []
    for columns, has_target in ((CLAIM_COLUMNS, True), (MEASUREMENT_COLUMNS, False)):
        rows = [
            f"| {_cell(folder.absolute().name)} {_row(claim, records[folder])}"
            for folder, claims in chosen.items()
            for claim in claims
            if claim.has_target == has_target
        ]
        lines += [*_head(("experiment", *columns)), *rows, ""] if rows else []
    return lines[:-1]


def overview(experiments: Path) -> list[str]:
    """The project's lines: what became of all claims, and a row for each experiment with the title of its README."""
    folders = [file.parent for file in sorted(experiments.glob("*/expected.yaml"))]
    found = {folder: statuses(folder) for folder in folders}
    rows = []
    for folder in folders:
        of_claims, of_measurements = count(found[folder])
        title = (folder / "README.md").read_text().partition("\n")[0].partition(": ")[2]
        numbers = [of_claims[kind] for kind in KINDS] + [of_measurements["reported"]]
        link = f"[{folder.name}]({experiments.name}/{folder.name}/README.md)"
        rows.append(_line((link, title, *(str(number or "") for number in numbers))))
    every = [one for folder in folders for one in found[folder]]
    return [summary(every) + ".", "", *_head(("experiment", "what", *KINDS, "measurements")), *rows]


def details(folder: Path) -> list[str]:
    """The lines of results/details.md: where the number of each claim and measurement comes from, seed by seed."""
    every, records = claims(folder), load(folder)
    lines = [f"# Details of {folder.absolute().name}", "", f"Written by `ebm reproduce` from expected.yaml and {FILE}."]
    for title, has_target in (("Claims", True), ("Measurements", False)):
        chosen = [claim for claim in every if claim.has_target == has_target]
        lines += ["", f"## {title}"] if chosen else []
        for claim in chosen:
            lines += ["", f"### {claim.id}: {claim.label}", "", *_of_claim(claim, of_claim(records, claim))]
    return lines


def write_tables(folder: Path) -> None:
    """Rewrite the details, and the tables between the markers of the experiment's README and the project's.

    Each file is rewritten under a lock and replaced at once, so that jobs that end together lose no line. Raises
    ValueError if a README lacks the markers.
    """
    for file, begin, lines in places(folder):
        with locked(file):
            write_between(file, begin, lines(), END)
    with locked(folder / "README.md"):
        write_atomically(folder / "results" / "details.md", "\n".join(details(folder)) + "\n")


def places(folder: Path) -> list[Place]:
    """Where the tables of an experiment stand. Raises ValueError if its README has no place for one."""
    name, experiments = folder.absolute().name, folder.absolute().parent
    own, project = folder / "README.md", experiments.parent / "README.md"
    found: list[Place] = [(own, BEGIN, lambda: table(folder))]
    if project.exists():
        link = f"{experiments.name}/{name}/results/details.md"
        others: list[Place] = [
            (project, BEGIN.replace("results:", f"results of {name}:"), lambda: table(folder, link)),
            (project, BEGIN.replace("results:", "results of all experiments:"), lambda: overview(experiments)),
        ]
        found += [place for place in others if place[1] in project.read_text()]
    for file, marker, _ in found:
        if not file.is_file() or END not in file.read_text().partition(marker)[2]:
            raise ValueError(f"{file} lacks the markers {marker} and {END}: add them where the table belongs")
    return found


def _row(claim: Claim, records: Sequence[Record]) -> str:
    found = of_claim(records, claim)
    target = (claim.target,) if claim.has_target else ()
    values = (ours(found), str(len(found))) if found else ("", "")
    return _line((claim.label, claim.published, *target, *values, status(claim, found).text))


def _of_claim(claim: Claim, found: Sequence[Record]) -> list[str]:
    """What the details say of one claim."""
    parts = [part for one in found for part in one.get("parts", [one])]
    protocols = _distinct(part["protocol"] for part in parts) or claim.protocol
    preprocessing = claim.preprocessing or next((part.get("preprocessing") for part in parts), None)
    seeds = [f"{one['seed']}: {of_seed(one)}" for one in found]
    cost = f"{sum(one['minutes'] for one in found):.0f} minutes of training at {_distinct(map(_commit, parts))}"
    lines = {
        "what": claim.what,
        "source": _joined(claim.source, _paper(claim, found), claim.note),
        "no target": claim.no_target,
        "measured": _joined(
            f"`{claim.metric}` of `{protocols}`",
            " minus ".join(claim.runs),
            f"preprocessing {preprocessing}" if preprocessing else "",
        ),
        "seeds": _joined(*seeds, cost) if found else "",
        "warning": _joined(*status(claim, found).warnings),
    }
    return [f"- {key}: {' '.join(text.split())}" for key, text in lines.items() if text]


def _paper(claim: Claim, found: Sequence[Record]) -> str:
    """The paper's value, and how far the mean of ours is from it."""
    if claim.paper is None:
        return ""
    if not found:
        return f"paper {claim.paper:g}"
    mean = sum(one["value"] for one in found) / len(found)
    return f"paper {claim.paper:g}, from which ours differs by {brief(mean - claim.paper)}"


def _commit(part: Record) -> str:
    return (part["commit"] or "unknown")[:7] + (" with changes" if part.get("dirty") else "")


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _head(columns: Sequence[str]) -> list[str]:
    return [_line(columns), "|" + "---|" * len(columns)]


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {_cell(cell)} " if cell else " " for cell in cells) + "|"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
