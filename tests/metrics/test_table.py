"""What `policy_report` gives where pandas is not installed, to the letter."""

import numpy as np

from skqprobe.metrics._report import Table

TABLE = Table(
    index=[(1, "base"), (1, "recovery"), (16, "base")],
    columns={
        "value": np.array([0.3584, np.nan, 12.5]),
        "low": np.array([0.3, -0.25, 0]),
        "high": np.array([0.41, 1, 100]),
    },
)


def test_as_text():
    assert repr(TABLE).splitlines() == [
        "     k  figure                  value      low     high",
        "     1  base                    0.358    0.300    0.410",
        "        recovery                  nan   -0.250    1.000",
        "    16  base                   12.500    0.000  100.000",
    ]


def test_as_html():
    assert TABLE._repr_html_() == (
        "<table><tr><th>k<th>figure<th>value<th>low<th>high"
        "<tr><td>1<td>base<td>0.358<td>0.300<td>0.410"
        "<tr><td><td>recovery<td>nan<td>-0.250<td>1.000"
        "<tr><td>16<td>base<td>12.500<td>0.000<td>100.000</table>"
    )
