"""Reading the gain against moves that `rebalance --json` printed, for pages."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimizer.errors import InputError

Share = Annotated[float, Field(allow_inf_nan=False)]


class _Gain(BaseModel):
    model_config = ConfigDict(extra="ignore")
    mean: Share
    low: Share
    high: Share


class _Point(BaseModel):
    model_config = ConfigDict(extra="ignore")
    budget: int | None
    moves: int = Field(ge=0)
    gain: _Gain


class _Moves(BaseModel):
    model_config = ConfigDict(extra="ignore")
    measure: Literal["latency_us", "expected_imbalance"]
    routing: str
    asked: _Point
    curve: list[_Point] = Field(min_length=1)


def read_moves(path: Path) -> dict[str, Any]:
    """What of the figures a page shows, as `moves_picture` takes them. Raises InputError for any other file."""
    advice = "give what `moeplan rebalance --json` printed"
    try:
        return _Moves.model_validate(json.loads(path.read_text(encoding="utf-8"))).model_dump()
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise InputError(f"{path}: {where}: {fault['msg'].lower()}; {advice}", "moves") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); {advice}", "moves") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {advice}", "moves") from None
