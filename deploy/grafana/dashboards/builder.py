"""Builds dashboards in Grafana's classic JSON model (Grafana 12) from a few plain parts.

How a dashboard is written::

    def dashboard() -> Dashboard:
        return Dashboard(
            uid=Uid.QUEUES,
            title="Queues",
            description="Which queue is late, and is it capacity or a stop?",
            variables=(QUEUE_NAME,),                # after datasource and namespace
            rows=(
                Row("How long do messages wait?", (
                    timeseries(
                        "Wait before start",
                        "What it shows, what is bad, where to look next.",
                        Query("max by (queue_name) (...)", "{{queue_name}}"),
                        unit=SECONDS, width=12, height=8,
                        overrides=QUEUE_COLOURS,
                        links=(Link("Its tasks", Uid.TASKS, {"queue_name": CLICKED_QUEUE}),),
                    ),
                )),
            ),
        )

Rules that the constructors enforce, each with a ValueError: every panel has a title and a
description, every row is a question, every panel with queries has a unit, nothing is wider than
the grid. Pie charts do not exist here: bars and tables compare better.

Panels flow from left to right and wrap after 24 columns; nobody counts coordinates. In an
expression ``$namespace``, ``$queue_name``, ``$name`` and ``$instance`` are the variables (all of
them lists, so compare with ``=~``), and ``SELECTED`` is the filter that every query starts with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from deploy.grafana.dashboards import colours
from deploy.prometheus.rulebook.rule import RUNBOOK_URL

Json = dict[str, Any]

#: Of Grafana 12.
SCHEMA_VERSION: Final = 41
#: Columns of the grid.
COLUMNS: Final = 24
#: All our dashboards carry it; the dropdown in each one's header lists them by it.
TAG: Final = "celeriac"
#: Every query filters by it.
SELECTED: Final = 'namespace=~"$namespace"'
#: ``LABEL.format("queue_name")`` in a link: that label of the series that was clicked.
LABEL: Final = "${{__field.labels.{}}}"
#: ``CELL.format("Queue")`` in a table's link: that column's value in the row that was clicked.
CELL: Final = '${{__data.fields["{}"]}}'

CLICKED_QUEUE: Final = LABEL.format("queue_name")
CLICKED_TASK: Final = LABEL.format("name")
CLICKED_INSTANCE: Final = LABEL.format("instance")

SECONDS: Final = "s"
BYTES: Final = "bytes"
#: A share from 0 to 1, shown in per cent.
RATIO: Final = "percentunit"
#: A count of things.
COUNT: Final = "short"
#: Things per second.
PER_SECOND: Final = "suffix:/s"
#: A Unix timestamp in *milliseconds* (``1000 * ...``), shown as "3 minutes ago".
SINCE: Final = "dateTimeFromNow"
#: Words, by value mappings.
WORDS: Final = "none"

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


class Uid(StrEnum):
    """The stable address of each dashboard: ``/d/<uid>``. Alerts link to them."""

    OVERVIEW = "celeriac-overview"
    QUEUES = "celeriac-queues"
    TASKS = "celeriac-tasks"
    WORKERS = "celeriac-workers"
    SCHEDULE = "celeriac-schedule"
    BROKER = "celeriac-broker"
    WEB_DATABASE = "celeriac-web-database"


@dataclass(frozen=True)
class Query:
    """One PromQL expression of a panel.

    Attributes:
        expr: The expression.
        legend: Name of its series, with ``{{label}}``. Empty: their labels.
        instant: Only the present value. ``stat`` and ``table`` ask so by themselves, because a
            range would go on showing the last value of something that is gone.
        interval: Shortest step, such as ``1m``; empty: what the panel's width needs.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    interval: str = ""


@dataclass(frozen=True)
class Link:
    """A way to the next dashboard: it keeps the time range, data source and namespace.

    Attributes:
        title: What the reader finds there.
        uid: The dashboard.
        variables: Variables to set there -> value; see ``LABEL`` and ``CELL``.
    """

    title: str
    uid: Uid
    variables: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> Json:
        """Return Grafana's data link."""
        chosen = [f"var-{name}={value}" for name, value in self.variables.items()]
        return _data_link(self.title, self.uid, *chosen)


@dataclass(frozen=True)
class LinkByLabel:
    """A way to the dashboard whose uid stands in a label of the series that was clicked."""

    title: str
    label: str

    def to_json(self) -> Json:
        """Return Grafana's data link."""
        return _data_link(self.title, LABEL.format(self.label))


def _data_link(title: str, uid: str, *chosen: str) -> Json:
    """Return a way to a dashboard that keeps the data source, the namespace and the time range."""
    kept = ("${datasource:queryparam}", "${namespace:queryparam}", "${__url_time_range}")
    return {"title": title, "url": f"/d/{uid}?{'&'.join((*kept, *chosen))}"}


@dataclass(frozen=True)
class RunbookLink:
    """A way to the runbook of the alert whose name stands in a column of the table."""

    title: str
    column: str

    def to_json(self) -> Json:
        """Return Grafana's data link."""
        url = RUNBOOK_URL.format(alert=CELL.format(self.column))
        return {"title": self.title, "url": url, "targetBlank": True}


AnyLink = Link | LinkByLabel | RunbookLink


@dataclass(frozen=True)
class Thresholds:
    """Where a value turns from good to warning to bad, and who decided so.

    The panel's description says it too, so that a colour is never unexplained.

    Attributes:
        why: Where the numbers come from, in a few words: a promise, a limit, an alert.
        warning: From here on (down from here, if ``falling``) it is a warning; None: no such step.
        bad: From here on it is bad; None: no such step.
        falling: Low values are the bad ones.
        normal: Colour of what is neither.
    """

    why: str
    warning: float | None = None
    bad: float | None = None
    falling: bool = False
    normal: str = colours.GOOD

    def to_json(self) -> Json:
        """Return Grafana's steps."""
        found = [(self.warning, colours.WARNING), (self.bad, colours.BAD)]
        marks = [(value, colour) for value, colour in found if value is not None]
        if self.falling:
            marks.sort(key=lambda mark: mark[0])
            bases = [None, *(value for value, _ in marks)]
            shades = [*(colour for _, colour in marks), self.normal]
            steps = [
                {"color": shade, "value": base} for base, shade in zip(bases, shades, strict=True)
            ]
        else:
            steps = [{"color": self.normal, "value": None}]
            steps += [{"color": colour, "value": value} for value, colour in marks]
        return {"mode": "absolute", "steps": steps}

    def in_words(self, unit: str) -> str:
        """Return the sentence for the description."""
        preposition = "below" if self.falling else "from"
        parts = []
        if self.warning is not None:
            parts.append(f"orange {preposition} {_readable(self.warning, unit)}")
        if self.bad is not None:
            parts.append(f"red {preposition} {_readable(self.bad, unit)}")
        sentence = " and ".join(parts)
        return f"{sentence[:1].upper()}{sentence[1:]}: {self.why}." if parts else ""


def _readable(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{value * 100:g} %"
        case "s":
            return f"{value:g} s"
        case "bytes":
            return f"{value / 2**20:g} MiB"
        case _:
            return f"{value:g}"


#: Value of a series, or of a label -> (word, colour).
Words = (
    Mapping[int, tuple[str, str]] | Mapping[float, tuple[str, str]] | Mapping[str, tuple[str, str]]
)
#: What ``up`` and its like say.
UP_OR_DOWN: Final[Words] = {0: ("down", colours.BAD), 1: ("up", colours.GOOD)}


def _mappings(words: Words) -> list[Json]:
    options = {
        str(value): {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(words.items())
    }
    return [{"type": "value", "options": options}]


@dataclass(frozen=True)
class Override:
    """Properties of the series (or columns) whose name a regular expression finds.

    Attributes:
        pattern: Regular expression, searched for in the displayed name.
        properties: Grafana's property id -> value.
    """

    pattern: str
    properties: Mapping[str, Any]

    def to_json(self) -> Json:
        """Return Grafana's override."""
        properties = [{"id": name, "value": value} for name, value in self.properties.items()]
        pattern = self.pattern.replace("/", r"\/")
        return {
            "matcher": {"id": "byRegexp", "options": f"/{pattern}/"},
            "properties": properties,
        }


def coloured(pattern: str, colour: str) -> Override:
    """Return an override: the series that the pattern finds get the colour."""
    return Override(pattern, {"color": {"mode": "fixed", "fixedColor": colour}})


#: An axis from 0 to 1 where nothing happened, not to 100.
AT_LEAST_ONE: Final = Override(".", {"custom.axisSoftMax": 1})


def limit_line(pattern: str, colour: str | None = colours.LIMIT) -> Override:
    """Return an override: a thin dashed line without area, for targets, limits and capacities.

    With ``colour`` None the series keeps its own, for one line of each queue.
    """
    properties: Json = {
        "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
        "custom.lineWidth": 1,
        "custom.fillOpacity": 0,
        "custom.stacking": {"mode": "none", "group": "limit"},
    }
    if colour is not None:
        properties["color"] = {"mode": "fixed", "fixedColor": colour}
    return Override(pattern, properties)


def _by_name(shades: Mapping[str, str]) -> tuple[Override, ...]:
    return tuple(coloured(rf"^{re.escape(name)}\b", shade) for name, shade in shades.items())


#: For series whose legend begins with ``{{queue_name}}``.
QUEUE_COLOURS: Final = _by_name(colours.QUEUE)
#: For series whose legend begins with what became of a task: ``succeeded``, ``{{state}}``.
STATE_COLOURS: Final = _by_name(colours.STATE)
#: For series whose legend begins with ``p50``, ``p95`` or ``p99``.
QUANTILE_COLOURS: Final = _by_name(colours.QUANTILES)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. Made by the functions below, not directly.

    Attributes:
        kind: Grafana's panel type.
        title: Short; a noun.
        description: What it shows, what is bad, where to look next.
        queries: What Prometheus is asked.
        query_format: ``time_series``, ``table`` or ``heatmap``.
        width: Columns of 24.
        height: Grid units of about 38 pixels.
        unit: Grafana's unit id.
        options: Of the panel type.
        defaults: Of its fields: unit, thresholds, mappings, ...
        overrides: Of some of its fields.
        transformations: Between queries and drawing.
        links: To the next dashboard.
    """

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int
    height: int
    unit: str = ""
    query_format: str = "time_series"
    options: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()
    links: tuple[AnyLink, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what a reader could not understand."""
        if not self.title.strip() or not self.description.strip():
            raise ValueError(f"panel {self.title!r} needs a title and a description")
        if self.queries and not self.unit:
            raise ValueError(f"panel {self.title!r} needs a unit")
        if not 1 <= self.width <= COLUMNS or self.height < 1:
            raise ValueError(f"panel {self.title!r} does not fit the grid")

    def to_json(self, number: int, x: int, y: int) -> Json:
        """Return Grafana's panel with its id and place."""
        field_defaults = {"links": [link.to_json() for link in self.links], **self.defaults}
        if self.unit:
            field_defaults["unit"] = self.unit
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": _DATASOURCE if self.queries else None,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(index, query) for index, query in enumerate(self.queries)],
            "options": self.options,
            "fieldConfig": {"defaults": field_defaults, "overrides": list(self.overrides)},
            "transformations": list(self.transformations),
        }

    def _target(self, index: int, query: Query) -> Json:
        target: Json = {
            "refId": reference(index),
            "datasource": _DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "format": self.query_format,
            "instant": query.instant,
            "range": not query.instant,
            "legendFormat": query.legend or "__auto",
        }
        if query.interval:
            target["interval"] = query.interval
        return target


def reference(index: int) -> str:
    """Return the letter that Grafana calls the query by."""
    return chr(ord("A") + index)


def _described(description: str, thresholds: Thresholds | None, unit: str) -> str:
    return f"{description} {thresholds.in_words(unit)}".strip() if thresholds else description


def _instant(queries: Sequence[Query]) -> tuple[Query, ...]:
    return tuple(Query(query.expr, query.legend, True, query.interval) for query in queries)


def _field(
    *,
    thresholds: Thresholds | None,
    words: Words | None,
    empty: str,
    decimals: int | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Json:
    defaults: Json = {"noValue": empty, "mappings": _mappings(words) if words else []}
    if thresholds:
        defaults["thresholds"] = thresholds.to_json()
        defaults["color"] = {"mode": "thresholds"}
    else:
        plain = [{"color": colours.NEUTRAL, "value": None}]
        defaults["thresholds"] = {"mode": "absolute", "steps": plain}
    numbers = {"decimals": decimals, "min": minimum, "max": maximum}
    return defaults | {name: value for name, value in numbers.items() if value is not None}


def stat(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    thresholds: Thresholds | None = None,
    words: Words | None = None,
    empty: str = "no data",
    width: int = 4,
    height: int = 4,
    decimals: int | None = None,
    filled: bool = True,
    names: bool = False,
    sideways: bool = False,
    text_size: int | None = None,
    overrides: Sequence[Override] = (),
    links: Sequence[AnyLink] = (),
) -> Panel:
    """Return a panel of big numbers as of now, one for each series.

    Args:
        title: A noun.
        description: What it shows, what is bad, where to look next.
        queries: Asked for their present value only.
        unit: Grafana's unit id.
        thresholds: Give the number its colour.
        words: Words in place of numbers.
        empty: What the panel says without data: what emptiness means here.
        width: Columns of 24.
        height: Grid units.
        decimals: After the point; None: as many as help.
        filled: Colour the background; else the number.
        names: Write each series' name beside its value.
        sideways: Several values beside each other, not below each other.
        text_size: Of the value, in pixels; None: as large as fits.
        overrides: For some of the series.
        links: To the next dashboard.
    """
    options: Json = {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        "colorMode": "background_solid" if filled else "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "textMode": "value_and_name" if names else "value",
        "wideLayout": True,
        "orientation": "vertical" if sideways else "auto",
        "text": {"valueSize": text_size} if text_size else {},
    }
    return Panel(
        kind="stat",
        title=title,
        description=_described(description, thresholds, unit),
        queries=_instant(queries),
        width=width,
        height=height,
        unit=unit,
        options=options,
        defaults=_field(thresholds=thresholds, words=words, empty=empty, decimals=decimals),
        overrides=tuple(override.to_json() for override in overrides),
        links=tuple(links),
    )


def timeseries(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    thresholds: Thresholds | None = None,
    empty: str = "no data",
    width: int = 12,
    height: int = 8,
    maximum: float | None = None,
    minimum: float | None = 0,
    stacked: bool = False,
    bars: bool = False,
    logarithmic: bool = False,
    legend_right: bool = False,
    legend: bool = True,
    calculations: Sequence[str] = ("lastNotNull", "max"),
    overrides: Sequence[Override] = (),
    links: Sequence[AnyLink] = (),
) -> Panel:
    """Return a panel of lines over time, with its legend as a table of last and maximum.

    Args:
        title: A noun.
        description: What it shows, what is bad, where to look next.
        queries: One or more, each with a legend.
        unit: Grafana's unit id.
        thresholds: Drawn as dashed lines.
        empty: What the panel says without data: what emptiness means here.
        width: Columns of 24.
        height: Grid units.
        maximum: Of the axis; None: as the data needs.
        minimum: Of the axis.
        stacked: Areas on top of each other, for parts of a whole.
        bars: Bars in place of lines, for counts of rare events.
        logarithmic: Base 10 axis from 0.1 on, for waits from milliseconds to hours.
        legend_right: Beside the lines, not below them: for many series.
        legend: Whether there is a legend.
        calculations: Columns of the legend.
        overrides: Such as ``QUEUE_COLOURS``, ``limit_line("target$")``.
        links: To the next dashboard.
    """
    custom: Json = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1 if stacked or bars else 2,
        "fillOpacity": 70 if bars else 35 if stacked else 0 if logarithmic else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
        "axisSoftMin": 0,
    }
    if logarithmic:
        # Symmetric: a plain logarithm has no place for 0, and an empty queue waits for 0 s.
        custom["scaleDistribution"] = {"type": "symlog", "log": 10, "linearThreshold": 0.1}
    defaults = _field(
        thresholds=thresholds, words=None, empty=empty, minimum=minimum, maximum=maximum
    )
    # Lines have the colours of what they are; the dashed lines have those of the thresholds.
    defaults |= {"custom": custom, "color": {"mode": "palette-classic"}}
    options: Json = {
        "legend": {
            "showLegend": legend,
            "displayMode": "table",
            "placement": "right" if legend_right else "bottom",
            "calcs": list(calculations),
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(
        kind="timeseries",
        title=title,
        description=_described(description, thresholds, unit),
        queries=queries,
        width=width,
        height=height,
        unit=unit,
        options=options,
        defaults=defaults,
        overrides=tuple(override.to_json() for override in overrides),
        links=tuple(links),
    )


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: the answer to one query.

    Attributes:
        title: Heading.
        expr: Must be aggregated by exactly the labels that name the table's rows.
        unit: Grafana's unit id.
        thresholds: Give the cell its colour.
        words: Words in place of numbers.
        width: In pixels; None: its share of the rest.
        filled: Colour the cell's background, not its text.
        decimals: After the point; None: as many as help.
    """

    title: str
    expr: str
    unit: str
    thresholds: Thresholds | None = None
    words: Words | None = None
    width: int | None = None
    filled: bool = False
    decimals: int | None = None


def table(
    title: str,
    description: str,
    rows: Mapping[str, str],
    columns: Sequence[Column],
    *,
    sort_by: str = "",
    descending: bool = True,
    empty: str = "no data",
    width: int = 24,
    height: int = 8,
    label_widths: Mapping[str, int] | None = None,
    label_words: Mapping[str, Words] | None = None,
    wrapped: bool = False,
    links: Mapping[str, Sequence[AnyLink]] | None = None,
    overrides: Sequence[Override] = (),
) -> Panel:
    """Return a table as of now: a row for each combination of labels, a column for each query.

    Args:
        title: A noun.
        description: What it shows, what is bad, where to look next; the columns' thresholds are
            added to it.
        rows: Label that names the rows -> heading of its column, in order.
        columns: The numbers, in order.
        sort_by: Heading of a column.
        descending: The largest first.
        empty: What the panel says without rows: what emptiness means here.
        width: Columns of 24.
        height: Grid units.
        label_widths: Heading -> width in pixels, for columns of labels.
        label_words: Heading -> value -> (word, colour), for columns of labels.
        wrapped: Break long text in a cell, instead of cutting it.
        links: Heading -> links of its cells.
        overrides: For some of the columns.
    """
    sentences = [
        f"{column.title}: {column.thresholds.in_words(column.unit)}"
        for column in columns
        if column.thresholds
    ]
    renamed = dict(rows)
    for index, column in enumerate(columns):
        # Grafana says "Value" where there is one query, and "Value #A" where there are several.
        renamed[f"Value #{reference(index)}" if len(columns) > 1 else "Value"] = column.title
    headings = {name: index for index, name in enumerate(renamed)}
    kept = [{"id": "merge", "options": {}}]
    kept += [
        {
            "id": "filterFieldsByName",
            "options": {"include": {"names": list(renamed)}},
        },
        {"id": "organize", "options": {"renameByName": renamed, "indexByName": headings}},
    ]
    cell_links = dict(links or {})
    own: list[Json] = []
    for heading in rows.values():
        properties: Json = {"color": {"mode": "fixed", "fixedColor": "text"}}
        if label_widths and heading in label_widths:
            properties["custom.width"] = label_widths[heading]
        if label_words and heading in label_words:
            properties["mappings"] = _mappings(label_words[heading])
            properties["custom.cellOptions"] = {"type": "color-text", "mode": "basic"}
        own.append(_cell(heading, properties, cell_links.pop(heading, ())))
    own += [
        _cell(column.title, _column_properties(column), cell_links.pop(column.title, ()))
        for column in columns
    ]
    if cell_links:
        raise ValueError(f"table {title!r} has no column {sorted(cell_links)}")
    sorting = [{"displayName": sort_by, "desc": descending}] if sort_by else []
    cell: Json = {"type": "auto", "wrapText": wrapped}
    return Panel(
        kind="table",
        title=title,
        description=" ".join([description, *sentences]),
        queries=_instant([Query(column.expr) for column in columns]),
        query_format="table",
        width=width,
        height=height,
        unit=WORDS,
        options={"showHeader": True, "cellHeight": "sm", "sortBy": sorting},
        defaults={
            "noValue": empty,
            "custom": {"align": "auto", "cellOptions": cell, "inspect": False, "filterable": False},
        },
        overrides=(*own, *(override.to_json() for override in overrides)),
        transformations=tuple(kept),
    )


def _cell(heading: str, properties: Json, links: Sequence[AnyLink]) -> Json:
    if links:
        properties = properties | {"links": [link.to_json() for link in links]}
    return {
        "matcher": {"id": "byName", "options": heading},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


def _column_properties(column: Column) -> Json:
    # A cell without a value says so; what an empty table means is the panel's to say.
    properties: Json = {"unit": column.unit, "noValue": "-"}
    if column.words:
        plain = [{"color": "text", "value": None}]
        properties["thresholds"] = {"mode": "absolute", "steps": plain}
    if column.thresholds:
        properties["thresholds"] = column.thresholds.to_json()
        properties["color"] = {"mode": "thresholds"}
    if column.words:
        properties["mappings"] = _mappings(column.words)
    if column.thresholds or column.words:
        kind = "color-background" if column.filled else "color-text"
        properties["custom.cellOptions"] = {"type": kind, "mode": "basic"}
    if column.width:
        properties["custom.width"] = column.width
    if column.decimals is not None:
        properties["decimals"] = column.decimals
    return properties


def bar_gauge(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    thresholds: Thresholds | None = None,
    empty: str = "no data",
    width: int = 8,
    height: int = 8,
    maximum: float | None = None,
    minimum: float | None = 0,
    decimals: int | None = None,
    overrides: Sequence[Override] = (),
    links: Sequence[AnyLink] = (),
) -> Panel:
    """Return horizontal bars as of now, one for each series: for comparing things with each other.

    Arguments are those of ``stat``; ``minimum`` and ``maximum`` are the ends of the bars.
    """
    return Panel(
        kind="bargauge",
        title=title,
        description=_described(description, thresholds, unit),
        queries=_instant(queries),
        width=width,
        height=height,
        unit=unit,
        options={
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "text",
            "namePlacement": "left",
            "showUnfilled": True,
            "sizing": "auto",
            "minVizHeight": 10,
            # Grafana reserves room for names of 12 pixels, and cuts larger ones.
            "text": {"titleSize": 12, "valueSize": 14},
        },
        defaults=_field(
            thresholds=thresholds,
            words=None,
            empty=empty,
            decimals=decimals,
            minimum=minimum,
            maximum=maximum,
        ),
        overrides=tuple(override.to_json() for override in overrides),
        links=tuple(links),
    )


def state_timeline(
    title: str,
    description: str,
    *queries: Query,
    words: Words,
    empty: str = "no data",
    width: int = 24,
    height: int = 6,
    show_values: bool = True,
    links: Sequence[AnyLink] = (),
) -> Panel:
    """Return one bar over time for each series, coloured by its state: for up and down.

    Args:
        title: A noun.
        description: What it shows, what is bad, where to look next.
        queries: Series of few different values.
        words: Value -> word and colour.
        empty: What the panel says without data.
        width: Columns of 24.
        height: Grid units.
        show_values: Write the word into the bar.
        links: To the next dashboard.
    """
    custom = {"lineWidth": 0, "fillOpacity": 80, "spanNulls": False}
    return Panel(
        kind="state-timeline",
        title=title,
        description=description,
        queries=queries,
        width=width,
        height=height,
        unit=WORDS,
        options={
            "mergeValues": True,
            "showValue": "auto" if show_values else "never",
            "rowHeight": 0.8,
            "alignValue": "left",
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "single", "sort": "none"},
        },
        defaults=_field(thresholds=None, words=words, empty=empty)
        | {"custom": custom, "color": {"mode": "thresholds"}},
        links=tuple(links),
    )


def heatmap(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    empty: str = "no data",
    width: int = 12,
    height: int = 8,
    links: Sequence[AnyLink] = (),
) -> Panel:
    """Return how a histogram's observations spread over time.

    Args:
        title: A noun.
        description: What it shows, what is bad, where to look next.
        query: ``sum by (le) (increase(..._bucket[$__rate_interval]))``; the legend is the bucket.
        unit: Of the histogram's buckets.
        empty: What the panel says without data.
        width: Columns of 24.
        height: Grid units.
        links: To the next dashboard.
    """
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        queries=(Query(query.expr, "{{le}}", query.instant, query.interval),),
        query_format="heatmap",
        width=width,
        height=height,
        unit=unit,
        options={
            "calculate": False,
            # One hue from pale to dark: order is seen without telling colours apart.
            "color": {
                "mode": "scheme",
                "scheme": "Blues",
                "steps": 64,
                "scale": "exponential",
                "exponent": 0.5,
                "reverse": False,
            },
            "yAxis": {"unit": unit, "axisPlacement": "left"},
            "cellValues": {"unit": COUNT, "decimals": 0},
            "filterValues": {"le": 1e-9},
            "cellGap": 1,
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": True},
        },
        defaults={"noValue": empty},
        links=tuple(links),
    )


def text(title: str, description: str, markdown: str, *, width: int = 24, height: int = 3) -> Panel:
    """Return a panel of Markdown."""
    return Panel(
        kind="text",
        title=title,
        description=description,
        queries=(),
        width=width,
        height=height,
        options={"mode": "markdown", "content": markdown},
    )


@dataclass(frozen=True)
class Row:
    """Panels that answer one question.

    Attributes:
        question: The row's title; ends with a question mark.
        panels: From left to right; they wrap after 24 columns.
        collapsed: Folded at first: for details that are rarely needed.
    """

    question: str
    panels: tuple[Panel, ...]
    collapsed: bool = False

    def __post_init__(self) -> None:
        """Refuse a title that is no question."""
        if not self.question.endswith("?"):
            raise ValueError(f"row {self.question!r} is not a question")


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: values of a label, any number of them, all at first.

    Attributes:
        name: In expressions: ``$name``.
        label: What the reader sees.
        query: ``label_values(metric{...}, label)``.
        all_means: What "All" is in an expression. Empty: just the values on offer, for a variable
            that depends on one before it.
    """

    name: str
    label: str
    query: str
    all_means: str = ".*"

    def to_json(self) -> Json:
        """Return Grafana's variable."""
        return {
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": _DATASOURCE,
            # 1: of the kind label_values, as Grafana's own editor writes it.
            "query": {"qryType": 1, "query": self.query, "refId": "values"},
            "definition": self.query,
            "multi": True,
            "includeAll": True,
            "allValue": self.all_means or None,
            "current": {"text": ["All"], "value": ["$__all"]},
            "refresh": 2,
            "sort": 1,
            "hide": 0,
        }


@dataclass(frozen=True)
class Choice:
    """A choice of one of a few fixed values at the top of a dashboard; the first is the default.

    Attributes:
        name: In expressions: ``$name``.
        label: What the reader sees.
        values: To choose from.
    """

    name: str
    label: str
    values: tuple[str, ...]

    def to_json(self) -> Json:
        """Return Grafana's variable."""
        return {
            "name": self.name,
            "label": self.label,
            "type": "custom",
            "query": ",".join(self.values),
            "options": [
                {"text": value, "value": value, "selected": value == self.values[0]}
                for value in self.values
            ],
            "multi": False,
            "includeAll": False,
            "current": {"text": self.values[0], "value": self.values[0]},
            "hide": 0,
        }


NAMESPACE: Final = Variable("namespace", "Namespace", "label_values(up, namespace)")
QUEUE_NAME: Final = Variable(
    "queue_name",
    "Queue",
    f"label_values(celery_queue_slo_seconds{{{SELECTED}}}, queue_name)",
)
TASK_NAME: Final = Variable(
    "name",
    "Task",
    f'label_values(celery_task_started_total{{{SELECTED}, queue_name=~"$queue_name"}}, name)',
)
#: Of workers: address of the process, among those that serve the chosen queues.
INSTANCE: Final = Variable(
    "instance",
    "Worker",
    f'label_values(celery_worker_queue_subscription{{{SELECTED}, queue_name=~"$queue_name"}},'
    " instance)",
    all_means="",
)

_DATASOURCE_VARIABLE: Final[Json] = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
    "refresh": 1,
    "hide": 0,
}

#: A version that was not there a minute ago. A restart of Prometheus itself shows none.
_DEPLOYED: Final = (
    f"count by (version, revision) (celeriac_build_info{{{SELECTED}}})"
    f" unless count by (version, revision) (celeriac_build_info{{{SELECTED}}} offset 1m)"
    f" and on () count(celeriac_build_info{{{SELECTED}}} offset 1m)"
)


def _annotations() -> list[Json]:
    def annotation(name: str, colour: str, expr: str, title: str, *, shown: bool) -> Json:
        return {
            "name": name,
            "datasource": _DATASOURCE,
            "enable": shown,
            "hide": False,
            "iconColor": colour,
            "expr": expr,
            "step": "30s",
            "titleFormat": title,
        }

    firing = 'ALERTS{alertstate="firing", alertname!="Watchdog"}'
    return [
        annotation(
            "Deployments",
            colours.PURPLE,
            _DEPLOYED,
            "Deployed {{version}} ({{revision}})",
            shown=True,
        ),
        annotation("Alerts", colours.BAD, firing, "{{alertname}}", shown=False),
    ]


@dataclass(frozen=True)
class Dashboard:
    """A dashboard.

    Attributes:
        uid: Stable address.
        title: Short.
        description: The question it answers.
        rows: From top to bottom.
        variables: After data source and namespace.
        refresh: How often the page asks again.
        since: Start of the time range, such as ``now-1h``.
        untitled: Panels above the first row, without a question of their own.
    """

    uid: Uid
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable | Choice, ...] = ()
    refresh: str = "30s"
    since: str = "now-1h"
    untitled: tuple[Panel, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a dashboard that does not say what it is for."""
        if not self.title.strip() or not self.description.endswith("?"):
            raise ValueError(f"dashboard {self.uid} needs a title, and a question as description")

    def to_json(self) -> Json:
        """Return Grafana's dashboard."""
        return {
            "uid": str(self.uid),
            "title": f"Celeriac / {self.title}",
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": self.refresh,
            "time": {"from": self.since, "to": "now"},
            "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m"]},
            "links": [
                {
                    "title": "Celeriac dashboards",
                    "type": "dashboards",
                    "tags": [TAG],
                    "asDropdown": True,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "templating": {
                "list": [
                    _DATASOURCE_VARIABLE,
                    *(variable.to_json() for variable in (NAMESPACE, *self.variables)),
                ]
            },
            "annotations": {"list": _annotations()},
            "panels": self._panels(),
        }

    def _panels(self) -> list[Json]:
        placed: list[Json] = []
        y = _place(self.untitled, placed, first=1, y=0)
        number = len(placed) + 1
        for row in self.rows:
            heading: Json = {
                "id": number,
                "type": "row",
                "title": row.question,
                "collapsed": row.collapsed,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
            placed.append(heading)
            inside: list[Json] = []
            end = _place(row.panels, inside, first=number + 1, y=y + 1)
            number += len(inside) + 1
            if row.collapsed:
                heading["panels"] = inside
                y += 1
            else:
                placed += inside
                y = end
        return placed


def _place(panels: Sequence[Panel], placed: list[Json], *, first: int, y: int) -> int:
    """Put panels from left to right, a new line after 24 columns; return the y below them."""
    x = tallest = 0
    for number, panel in enumerate(panels, start=first):
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        placed.append(panel.to_json(number, x, y))
        x += panel.width
        tallest = max(tallest, panel.height)
    return y + tallest
