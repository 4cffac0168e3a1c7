"""What is wrong with each row of a request, kept short: an answer must not outgrow its question."""

from service.samples import FieldError

MAX_ERRORS = 10  # of one row; the rest is counted
LONGEST_NAME = 64


class RowErrors:
    """Errors by row of the request, in the order in which they were found."""

    def __init__(self) -> None:
        self._found: dict[int, list[FieldError]] = {}
        self._unshown: dict[int, int] = {}
        self._closed: set[int] = set()

    def __contains__(self, row: int) -> bool:
        return row in self._found

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, row: int, field: str, reason: str) -> None:
        """One more thing wrong with this row."""
        errors = self._found.setdefault(row, [])
        if row in self._closed:
            return
        if len(errors) < MAX_ERRORS:
            errors.append(FieldError(field, reason))
        else:
            self._unshown[row] = self._unshown.get(row, 0) + 1

    def add_once(self, row: int, field: str, reason: str) -> None:
        """As add, unless something is known to be wrong with the field already."""
        if not any(error.field == field for error in self._found.get(row, ())):
            self.add(row, field, reason)

    def close(self, row: int, reason: str) -> None:
        """The row is no sample at all; nothing else needs to be said of it."""
        self.add(row, "sample", reason)
        self._closed.add(row)

    def by_row(self) -> dict[int, tuple[FieldError, ...]]:
        """What the senders are told."""
        return {row: tuple(errors + self._rest(row)) for row, errors in sorted(self._found.items())}

    def _rest(self, row: int) -> list[FieldError]:
        more = self._unshown.get(row, 0)
        return [FieldError("sample", f"and {more} more")] if more else []


def short_name(name: object) -> str:
    """A sender's own name, cut short and fit to be sent back: no lone surrogates, no end of it."""
    return str(name)[:LONGEST_NAME].encode("utf-8", "replace").decode("utf-8")
