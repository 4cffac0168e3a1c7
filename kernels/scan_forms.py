"""Which form of its scan each kind of block runs by."""

from dataclasses import dataclass

from kernels.scan import SelectiveScan, selective_scan_chunked, selective_scan_ref
from kernels.ssd import SsdScan, ssd_scan_chunked, ssd_scan_ref


@dataclass(frozen=True, slots=True)
class ScanForms:
    """One form for either kind of block."""

    mamba1: SelectiveScan
    mamba2: SsdScan


SEQUENTIAL = ScanForms(selective_scan_ref, ssd_scan_ref)  # the definitions, one step after another
CHUNKED = ScanForms(selective_scan_chunked, ssd_scan_chunked)  # in torch on any device, with gradients
