"""Secrets are named in the configuration and kept elsewhere: in a variable of the environment, or in a file."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class SecretSource(BaseModel):
    """`{ env = "NAME" }` or `{ file = "/path" }`; where it is, it is read when the configuration is, and never shown.

    Raises pydantic's ValidationError if there is nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    env: str | None = None
    file: Path | None = None
    prefix: str = ""  # such as "Bearer "
    value: SecretStr = Field(SecretStr(""), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _named_only(cls, data: object) -> object:
        if not isinstance(data, dict):
            raise ValueError('a secret is named, not written here: { env = "VARIABLE" } or { file = "/path" }')  # noqa: TRY004
        if set(data) - {"env", "file", "prefix"} or ("env" in data) == ("file" in data):
            raise ValueError('a secret is { env = "VARIABLE" } or { file = "/path" }, with prefix = "..." if wanted')
        return {**data, "value": SecretStr(data.get("prefix", "") + read_secret(data))}


def read_secret(source: dict[str, str]) -> str:
    """What a variable or file holds, without white space at its ends. Raises ValueError."""
    if "env" in source:
        text = os.environ.get(source["env"], "")
        where = f"environment variable {source['env']}"
    else:
        where = f"file {source['file']}"
        try:
            text = Path(source["file"]).read_text()
        except OSError as error:
            raise ValueError(f"{where} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise ValueError(f"{where} is not set, or empty")
    return text.strip()
