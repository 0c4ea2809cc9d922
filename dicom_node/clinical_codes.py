"""Codes and units of laboratories and records -> clinical variables. The mapping is config/clinical_codes.toml, and a
site's file beside it. Pure but for reading these.

Numbers are converted with exact factors within one quantity; a value without its unit, or in one that is not listed,
is not taken: a wrong unit scores as confidently as a right one.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dicom_node.observation import CodedValue, Observation
from dicom_node.workitem import ConfigError
from models.clinical_value import is_blank, ucum

_NUMBER = re.compile(r"[-+]?[0-9]{1,12}(\.[0-9]{0,12})?([eE][-+]?[0-9]{1,2})?")
_ANNOTATION = re.compile(r"\{[^{}]*\}")  # UCUM: says of what, has no dimension
_LITRE = re.compile(r"(?<![A-Za-z])([mdu]?)l\b")
_CODE = re.compile(r"[^|]+\|[^|]+")


@dataclass(frozen=True)
class Observed:
    """A value in the variable's own unit; `stated` is what was received where that was another unit."""

    name: str
    value: float | str
    unit: str
    stated: str = ""


@dataclass(frozen=True)
class NotTaken:
    """Why a value is of no use. `name` is '' where the code means nothing here; the text never holds the value."""

    name: str
    why: str


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variable(_Frozen):
    """One clinical variable: its codes, its unit, and what coded values stand for."""

    label: str = ""
    type: Literal["number", "category", "boolean", "date"]
    unit: str = ""  # UCUM
    quantity: str = ""
    unit_if_absent: str = ""  # for a laboratory that never says it
    timeless: bool = False  # a value of any day counts
    lasting: bool = False  # once so, it stays so: no value is too old
    codes: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    values: dict[str, float | str] = Field(default_factory=dict)


class Ratio(_Frozen):
    """A variable that is the quotient of two others of the same day."""

    numerator: str
    denominator: str


class Codes(_Frozen):
    """The whole mapping. Reached through `load`."""

    systems: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    quantities: dict[str, dict[str, Fraction]] = Field(default_factory=dict)
    variables: dict[str, Variable] = Field(default_factory=dict)
    ratios: dict[str, Ratio] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> "Codes":
        for name, variable in self.variables.items():
            if variable.quantity and variable.unit not in self.quantities.get(variable.quantity, {}):
                raise ValueError(f"variable {name}: quantity {variable.quantity!r} does not list {variable.unit!r}")
            for code in (*variable.codes, *variable.conditions, *variable.values):
                if not _CODE.fullmatch(code) or code.partition("|")[0] not in self.systems:
                    raise ValueError(f"variable {name}: {code!r} must be 'system|code' with a system of [systems]")
        for name, ratio in self.ratios.items():
            for part in (ratio.numerator, ratio.denominator):
                if part not in self.variables:
                    raise ValueError(f"ratio {name}: no variable {part!r}")
        if any(factor <= 0 for units in self.quantities.values() for factor in units.values()):
            raise ValueError("a factor must be above 0")
        for kind in ("codes", "conditions"):
            _once(self.variables, kind)
        return self

    @cached_property
    def _systems(self) -> dict[str, str]:
        found = {alias.lower(): name for name, aliases in self.systems.items() for alias in aliases}
        return found | {f"urn:oid:{alias}": name for alias, name in found.items() if alias[:1].isdigit()}

    @cached_property
    def _by_code(self) -> dict[str, str]:
        return {code: name for name, variable in self.variables.items() for code in variable.codes}

    @cached_property
    def _by_condition(self) -> dict[str, str]:
        return {code: name for name, variable in self.variables.items() for code in variable.conditions}

    def observed(self, code: str, system: str, value: float | str | CodedValue, unit: str = "") -> Observed | NotTaken:
        """What an observation (HL7 v2 OBX, FHIR Observation) says, in the variable's own unit.

        `system` is the name of HL7 table 0396, a URI or an OID; `value` a number, a number as text, a text or a
        coded value; `unit` UCUM or a listed spelling, '' where none is stated.
        """
        name = self._by_code.get(self._key(code, system))
        return self.taken(name, value, unit) if name else NotTaken("", "the code is not mapped")

    def read(self, observation: Observation) -> Observed | NotTaken:
        """What an observation says, by whichever of its codes (and of its coded value's) is mapped."""
        names = {self._by_code.get(self._key(each.code, each.system)) for each in observation.codes} - {None}
        if len(names) > 1:
            return NotTaken("", "its codes mean several variables")
        name = names.pop() if names else None
        if name is None:
            return NotTaken("", "the code is not mapped")
        said = [self.taken(name, each) for each in observation.coded]
        understood = [each for each in said if isinstance(each, Observed)]
        if len({each.value for each in understood}) > 1:
            return NotTaken(name, "its coded values mean several things")
        if understood or said:
            return understood[0] if understood else said[0]
        return self.taken(name, observation.value, observation.unit)

    def condition(self, code: str, system: str) -> Observed | NotTaken:
        """What a diagnosis (HL7 v2 DG1, FHIR Condition) says: yes, or nothing."""
        name = self._by_condition.get(self._key(code, system))
        return Observed(name, "yes", "") if name else NotTaken("", "the code is not mapped")

    def taken(self, name: str, value: float | str | CodedValue, unit: str = "") -> Observed | NotTaken:
        """A value of a variable, in its own unit."""
        variable = self.variables[name]
        if isinstance(value, CodedValue):
            meant = variable.values.get(self._key(value.code, value.system))
            return (
                NotTaken(name, "its coded value is not mapped")
                if meant is None
                else Observed(name, meant, variable.unit)
            )
        if isinstance(value, str) and is_blank(value):
            return NotTaken(name, "it is blank")
        if isinstance(value, str) and (meant := variable.values.get(f"local|{value.strip()}")) is not None:
            return Observed(name, meant, variable.unit)
        if variable.type == "date":
            day = day_of(str(value).strip()[:10]) or day_of(str(value).strip()[:8])  # HL7 v2 adds the time of day
            return Observed(name, day.isoformat(), "") if day else NotTaken(name, "it is no day")
        if variable.type != "number":
            return Observed(name, value, "")
        number = plain_number(value)
        if number is None:
            return NotTaken(name, "it is not a plain number")
        return self._converted(name, variable, number, f"{value}".strip(), unit)

    def _converted(self, name: str, variable: Variable, number: Fraction, text: str, unit: str) -> Observed | NotTaken:
        stated = normal_unit(unit) or variable.unit_if_absent
        if not stated and variable.unit:
            return NotTaken(name, f"its unit is not stated; {variable.unit} is expected")
        factor = self.factor(name, stated, variable.unit)
        if factor is None:
            return NotTaken(name, f"its unit cannot be converted into {variable.unit or 'no unit'}")
        as_stated = f"{text} {stated}" if factor != 1 else ""
        return Observed(name, float(number * factor), variable.unit, as_stated)

    def factor(self, name: str, unit: str, into: str) -> Fraction | None:
        """What a number in `unit` is multiplied with to be in `into`; None where that cannot be said.

        >>> codes = load(None)
        >>> codes.factor("albumin", "g/dL", "g/L"), codes.factor("albumin", "umol/L", "g/L")
        (Fraction(10, 1), None)
        """
        unit, into = normal_unit(unit), normal_unit(into)
        if unit == into:
            return Fraction(1)
        variable = self.variables.get(name)
        groups = (
            self.quantities if variable is None else {variable.quantity: self.quantities.get(variable.quantity, {})}
        )
        for units in groups.values():  # a bundle's own predictor: whichever quantity has both units
            spelled = {normal_unit(each): factor for each, factor in units.items()}
            if unit in spelled and into in spelled:
                return spelled[unit] / spelled[into]
        return None

    def _key(self, code: str, system: str) -> str:
        named = self._systems.get(system.strip().lower(), system.strip())
        return f"{named}|{code.strip()}"

    def searched(self, kind: Literal["codes", "conditions"]) -> list[str]:
        """Codes as a FHIR token search takes them: "http://loinc.org|1751-7"; local ones have no URI and are left."""
        found = sorted(code for variable in self.variables.values() for code in getattr(variable, kind))
        parts = [code.partition("|") for code in found]
        return [f"{self.systems[name][0]}|{code}" for name, _, code in parts if "://" in self.systems[name][0]]


def _once(variables: Mapping[str, Variable], kind: str) -> None:
    seen: dict[str, str] = {}
    for name, variable in variables.items():
        for code in getattr(variable, kind):
            if seen.setdefault(code, name) != name:
                raise ValueError(f"code {code!r} means both {seen[code]} and {name}")


@lru_cache(maxsize=4)
def load(site: Path | None) -> Codes:
    """The mapping that comes with the package, and the site's over it. Read once: a changed file needs a restart.

    Raises
    ------
    ConfigError
        The site's file cannot be read or does not make sense; the text names file and place.
    """
    shipped = tomllib.loads(resources.files("config").joinpath("clinical_codes.toml").read_text("utf-8"))
    try:
        own = tomllib.loads(site.read_text(encoding="utf-8")) if site else {}
        known = set(Codes.model_fields)
        if unknown := sorted(set(own) - known):
            named = ", ".join(f"[{table}]" for table in unknown)
            raise ConfigError(f"{site}: unknown table {named}; known: {', '.join(sorted(known))}")
        merged = {table: shipped.get(table, {}) | own.get(table, {}) for table in known}
        return Codes.model_validate(merged)
    except OSError as error:
        raise ConfigError(f"{site}: cannot be read ({error.strerror}); correct [clinical] codes") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{site}: is not TOML: {error}") from error
    except ValidationError as error:
        found = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        said = "; ".join(f"{where}: {what}" if where else what for where, what in found)
        raise ConfigError(f"{site}: {said}") from error


def plain_number(value: float | str) -> Fraction | None:
    """A plain decimal number, exactly; None for all else: `float` would also take 1_0, inf and nan.

    >>> plain_number(" 3.9 "), plain_number("3,9"), plain_number("<5"), plain_number(float("nan"))
    (Fraction(39, 10), None, None, None)
    """
    text = str(value).strip()
    return Fraction(text) if _NUMBER.fullmatch(text) else None


def day_of(text: str) -> date | None:
    """YYYYMMDD or YYYY-MM-DD as a date; None for all else.

    >>> day_of("20240301"), day_of("2024-03-01"), day_of("2024-03"), day_of("")
    (datetime.date(2024, 3, 1), datetime.date(2024, 3, 1), None, None)
    """
    try:
        return date.fromisoformat(text) if len(text) in (8, 10) and "W" not in text else None
    except ValueError:
        return None


def normal_unit(unit: str) -> str:
    """A unit without annotations, with litres as L, micro as u, and the spellings that are known.

    >>> [normal_unit(unit) for unit in ("g/l", "{score}", "{cells}/µl", " years ", "mol/l")]
    ['g/L', '', '/uL', 'a', 'mol/L']
    """
    plain = _ANNOTATION.sub("", unit).replace("µ", "u").replace("μ", "u").strip()
    return ucum(_LITRE.sub(r"\1L", plain))
