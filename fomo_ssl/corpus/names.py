"""What a file name tells of a scan: its sequence, or that it is no scan.

Understood are FOMO's names (`t1_2`, `dwi_b1000`, `bval0`, `scan_3`), BIDS suffixes with their entities
(`sub-01_ce-gadolinium_run-1_T1w`), and words of other trees (`BraTS-GLI-00000-000-t2f`, `IXI002-Guys-0828-T1`).
"""

import re

_SEQUENCE_OF = {
    name: sequence
    for sequence, names in {
        "t1": "t1 t1w t1n t1wi mprage mp2rage unit1 spgr bravo inplanet1",
        "t1c": "t1c t1ce t1gd t1cw t1post",
        "t2": "t2 t2w t2wi mese inplanet2",
        "t2s": "t2s t2star t2starw gre ffe megre",
        "flair": "flair t2f t2flair",
        "pd": "pd pdw",
        "swi": "swi swan",
        "dwi": "dwi dti trace bval",
        "adc": "adc",
        "mra": "mra angio tof",
        "perf": "asl perf perfusion dsc dce",
    }.items()
    for name in names.split()
}
# A word of contrast agent after a T1; FOMO's own name for both is t1c.
_CONTRAST = {"gd", "gad", "post", "postgad", "postcontrast", "ce", "contrast"}
_NOT_A_SCAN = {"seg", "dseg", "probseg", "label", "labels", "lesion", "roi"}
# Keys of BIDS entities, whose values (`acq-t2`) are not the sequence.
_ENTITIES = {"sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run"}
_ENTITIES |= {"mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording", "chunk", "seg"}
_ENTITIES |= {"res", "den", "label", "desc", "from", "to", "mode", "atlas", "scale"}
_SHELL = re.compile(r"(?<![a-z0-9])b(?:val(?:ue)?)?[-=]?(\d+)(?![a-z0-9])")
_PERSON = re.compile(r"(?:^|_)(?:sub|ses|run)[-_][^_]*")
FALLBACK = "other"


def sequence_name(stem: str, folder: str = "") -> str:
    """The sequence that a name tells, such as "t1" or "dwi_b1000"; else what its folder tells; else "other".

    Args:
        stem: file name without extension.
        folder: name of the folder that holds it: `dwi` and `perf` are telling, `anat` is not.
    """
    stem = stem.lower()
    words = _words(stem)
    found = [_SEQUENCE_OF[word] for word in words if word in _SEQUENCE_OF]
    shell = _SHELL.search(_PERSON.sub("", stem))
    if not found and (folder.lower() in ("dwi", "perf") or (shell and "bval" in shell[0])):
        found = ["perf" if folder.lower() == "perf" else "dwi"]
    sequence = _most_telling(found)
    if sequence == "t1" and (_has_agent(stem) or _CONTRAST & set(words)):
        return "t1c"
    return f"dwi_b{int(shell[1])}" if sequence == "dwi" and shell else sequence


def is_scan_name(stem: str) -> bool:
    """Whether a name is not that of a mask or a segmentation."""
    words = _words(stem.lower())
    return not any(word in _NOT_A_SCAN or word.endswith("mask") for word in words)


def _most_telling(found: list[str]) -> str:
    """The first sequence named, but T2-FLAIR is a FLAIR, and an ADC map is not the DWI that it was made of."""
    for pair, sequence in (({"t2", "flair"}, "flair"), ({"dwi", "adc"}, "adc")):
        if pair <= set(found) and "t1" not in found:
            return sequence
    return found[0] if found else FALLBACK


def _has_agent(stem: str) -> bool:
    return any(token.startswith("ce-") and token != "ce-none" for token in stem.split("_"))


def _words(stem: str) -> list[str]:
    """Words between `_`, `.`, spaces and `-`, without BIDS entities."""
    tokens = [token for token in stem.split("_") if token.split("-")[0] not in _ENTITIES or "-" not in token]
    return [word for token in tokens for word in re.split(r"[-. ]", token) if word]
