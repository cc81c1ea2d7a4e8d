"""Grafana's dashboards, generated: one row a subject, every number from docs/metrics.md.

python -m deploy.observability.grafana          write deploy/observability/dashboards/*.json
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from deploy.observability.boards import BOARDS, Board, Panel

FOLDER = Path(__file__).parent / "dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")


def built(board: Board) -> str:
    """A dashboard as the JSON that Grafana imports."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["commdesk"])
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("source").type("prometheus").label("Prometheus"))
    )
    for title, panels in board.rows.items():
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(_panel(panel))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    shape: stat.Panel | timeseries.Panel
    if panel.number:
        last = common.ReduceDataOptions().calcs(["lastNotNull"])
        shape = stat.Panel().graph_mode(BigValueGraphMode.AREA).reduce_options(last).height(4)
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST)
        legend = legend.placement(LegendPlacement.BOTTOM).show_legend(True)
        shape = timeseries.Panel().legend(legend).fill_opacity(8).line_width(1.5).height(8)
    shape = shape.title(panel.title).unit(panel.unit).span(panel.wide).datasource(_SOURCE)
    for line in panel.lines:
        shape = shape.with_target(prometheus.Dataquery().expr(line.expr).legend_format(line.name))
    return shape


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(built(board))


if __name__ == "__main__":
    main()
