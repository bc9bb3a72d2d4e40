"""What is to be seen in each kind of picture."""

_KNOWN = {
    "frontier": (
        "Two panels: normalised error, and increase of cross-entropy, against K for each "
        "architecture and the controls. The table above has the numbers.",
        "Faithfulness against sparsity. Lower is better, and further left is sparser. Bars are "
        "95 % intervals, paired and clustered by document; faint points are single seeds. The "
        "dense MLP was trained the same way: what an MLP of that width reaches without sparsity.",
    ),
    "activity": (
        "Increase of cross-entropy against active parameters for each architecture and the "
        "controls. The table above has the numbers.",
        "The same increase against the parameters that touch one token's output. An MxD keeps a "
        "dense MLP running beside its experts, so equal K is not equal activity.",
    ),
    "training": (
        "Normalised error on training text against tokens trained on, for each student.",
        "Error during training. A curve that still falls at its right end belongs to a student "
        "that had not finished learning.",
    ),
}


def caption(stem: str) -> tuple[str, str]:
    """Alternative text and caption of a picture, by its file's stem."""
    return _KNOWN.get(stem, (f"Picture: {stem}", stem))
