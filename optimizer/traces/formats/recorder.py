"""Files of counts that servers write with `torch.save`: SGLang's recorder in its stat modes, and LMDeploy's.

SGLang's holds `logical_count [step, layer, expert]`, a circular buffer of steps; those that were never recorded count
nothing. It is added up over all ranks before rank 0 alone writes it (`_StatAccumulator.dump` in SGLang's
`srt/eplb/expert_distribution.py`), so one file holds the counts of all ranks, and several are dumps one after another.
LMDeploy's holds `counts [layer, expert]`, added up over all ranks as well (`_dump` in its
`pytorch/models/utils/expert_distribution_recorder.py`).
"""

from pathlib import Path

from optimizer.traces.formats.count_documents import in_steps
from optimizer.traces.formats.raw_counts import RawCounts, WholeNumbers
from optimizer.traces.formats.torch_file import StoredTensor, TorchFile
from optimizer.traces.formats.untrusted import UnusableError

FIELDS = ("logical_count", "counts")
"""The fields that hold the counts, SGLang's and LMDeploy's."""


def read_steps(path: Path, whole: WholeNumbers) -> RawCounts:
    """Read the counts of such a file. Raises UnusableError for a damaged file, and for one without counts."""
    with TorchFile(path) as file:
        held = file.held if isinstance(file.held, dict) else {}
        field = next((name for name in FIELDS if isinstance(held.get(name), StoredTensor)), None)
        if field is None:
            raise UnusableError(f"has no tensor {' or '.join(FIELDS)} as recorders of counts write it")
        return RawCounts(in_steps(file.array(held[field]), field, whole))
