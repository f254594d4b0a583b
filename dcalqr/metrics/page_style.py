"""The status page's style sheet and sign: parts of the page itself, for it loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f2;--card:#fff;--ink:#22262b;--soft:#5d6670;--line:#e3e1db;--bar:#e9e7e1;
--good:#2f7d4f;--warn:#9a6200;--bad:#b3261e;--calm:#3b6ea5;--tint:#fdf3f2;--tint-warn:#fdf8ec}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--card:#1d2126;--ink:#dfe3e7;--soft:#98a2ad;--line:#2d333a;
--bar:#2c3239;--good:#6cc08b;--warn:#e0ab4a;--bad:#f28b82;--calm:#7fb0e0;--tint:#2b1f20;--tint-warn:#2a2519}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums}
main,header,footer{max-width:68rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:1.75rem;padding-bottom:1.25rem;display:flex;flex-wrap:wrap;gap:.4rem 1.1rem;align-items:center}
h1{font-size:1.5rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h1 small{color:var(--soft);font-size:1rem;font-weight:400;margin-left:.45rem}
h2{font-size:1rem;margin:0 0 .7rem;display:flex;justify-content:space-between;gap:1rem;align-items:baseline}
h2 span{color:var(--soft);font-weight:400;font-size:.875rem}
.state{font-weight:600;padding:.2rem .85rem;border-radius:99px;color:var(--card);background:var(--good)}
.state.warn{background:var(--warn)}.state.bad{background:var(--bad)}
.when{color:var(--soft);margin-left:auto;font-size:.875rem}
section{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1.1rem 1.25rem;
margin:0 0 1rem;min-width:0}
section.bad{border-color:var(--bad);background:var(--tint)}
section.warn{border-color:var(--warn);background:var(--tint-warn)}
.tiles,.pair{display:grid;gap:1rem;margin-bottom:1rem}
.tiles{grid-template-columns:repeat(auto-fit,minmax(13rem,1fr))}
.pair{grid-template-columns:repeat(auto-fit,minmax(min(27rem,100%),1fr));align-items:start}
.tiles section,.pair section{margin:0}
.tiles h2{color:var(--soft);font-weight:500;font-size:.875rem;margin:0}
.tiles strong{display:block;font-size:1.9rem;line-height:1.25;font-weight:600}
.tiles p,.note{margin:0;color:var(--soft);font-size:.875rem}
ul{list-style:none;margin:0;padding:0}ul+.note{margin-top:.9rem}
li+li{border-top:1px solid var(--line)}li{padding:.6rem 0;min-width:0}
li:first-child{padding-top:0}li:last-child{padding-bottom:0}
.row{display:flex;flex-wrap:wrap;gap:.1rem 1rem;justify-content:space-between;align-items:baseline}
.row>*{min-width:0}
.path{overflow-wrap:anywhere;word-break:break-word;flex:1 1 20rem}
.path span{color:var(--soft)}.path b{font-weight:600}
.soft{color:var(--soft);font-size:.875rem;white-space:nowrap}
.why{overflow-wrap:anywhere;margin:.1rem 0 0}
.why b,.badword{color:var(--bad)}.warnword{color:var(--warn)}.goodword{color:var(--good)}
progress{appearance:none;display:block;width:100%;height:.5rem;border:0;border-radius:99px;background:var(--bar);
margin:.4rem 0 .1rem;overflow:hidden;color:var(--calm)}
progress::-webkit-progress-bar{background:var(--bar)}
progress::-webkit-progress-value{background:var(--calm);border-radius:99px}
progress::-moz-progress-bar{background:var(--calm);border-radius:99px}
progress:indeterminate{opacity:.55}
progress.full::-webkit-progress-value{background:var(--bad)}progress.full::-moz-progress-bar{background:var(--bad)}
table{border-collapse:collapse;width:100%;font-size:.9375rem}.wide{overflow-x:auto}
th{font-weight:500;color:var(--soft);font-size:.875rem}
th,td{text-align:right;padding:.3rem 0 .3rem 1rem;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}tbody tr{border-top:1px solid var(--line)}
dl{display:grid;grid-template-columns:auto 1fr;gap:.35rem 1.25rem;margin:1rem 0 0}dt{color:var(--soft)}
dd{margin:0;text-align:right;overflow-wrap:anywhere}
code{display:block;font:.875rem/1.5 ui-monospace,"DejaVu Sans Mono",monospace;background:var(--bg);
border:1px solid var(--line);border-radius:.5rem;padding:.45rem .7rem;margin-top:.7rem;overflow-wrap:anywhere;
white-space:pre-wrap}
footer{color:var(--soft);font-size:.875rem;padding-top:.5rem;padding-bottom:2rem;overflow-wrap:anywhere}
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Nothing is loaded, run, framed or sent; only this very style sheet and a sign that stands in the page itself.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_COLOURS = {"good": "2f7d4f", "warn": "b87400", "bad": "b3261e"}


def sign(state: str) -> str:
    """The tab's sign, in the colour of the state."""
    dot = f"%3Ccircle cx='8' cy='8' r='7' fill='%23{_COLOURS[state]}'/%3E"
    return f"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E{dot}%3C/svg%3E"
