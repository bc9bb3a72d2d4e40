"""How text is read, whatever it is read from."""

from dataclasses import dataclass

from mxd.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How to read documents from a source."""

    column: str = "text"
    """Column that holds the text; records without it may hold `input_ids` instead."""
    doc_column: str = "doc"
    """Column that names a record's document, used where present; equal values are one document."""
    dataset_name: str | None = None
    """Configuration of a Hugging Face data set, for those that have several."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    seed: int = 42
    """Seed of the order of files and documents."""
    shuffle_documents: int = 1000
    """Records held back to be shuffled (memory grows with it); 0 keeps the order of the source."""
    skip_damaged: bool = False
    """Leave out damaged records, and damaged files from where they cannot be read on, instead of
    ending; each is named in the log. The same files always give the same documents."""

    def __post_init__(self) -> None:
        if self.shuffle_documents < 0:
            raise UserError(
                f"got shuffle_documents={self.shuffle_documents}, expected 0 or more; "
                "give 0 to keep the order of the source"
            )
