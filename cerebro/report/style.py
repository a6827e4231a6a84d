"""The style sheet of a report."""

CSS = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575; --faint: #e4e8ee; --paper: #fff; --page: #f4f6f9;
  --accent: #1d6fd8; --good: #12805c; --bad: #c0392b; --tint: #eef5ff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f1; --soft: #97a3b6; --faint: #2b3442; --paper: #171d27;
  --page: #0f141b; --accent: #6cb0ff; --good: #4cc79a; --bad: #ff7b6b; --tint: #1b2a3f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header > div { max-width: 1200px; margin: 0 auto; padding: 0 24px; }
header { background: var(--paper); border-bottom: 1px solid var(--faint); padding: 26px 0 22px; margin-bottom: 22px; }
h1 { font-size: 26px; margin: 0 0 2px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 12px; } h2 span { font-weight: 400; margin-left: 6px; }
p { margin: 0; }
.soft { color: var(--soft); }
.small { font-size: 13px; }
.mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 12.5px;
  overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0 14px; }
.fact { border: 1px solid var(--faint); border-radius: 10px; padding: 10px 14px; }
.fact b { display: block; font-size: 21px; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.3; }
.fact > span { color: var(--soft); font-size: 12.5px; }
.fact.best { border-color: var(--accent); background: var(--tint); flex: 1 1 280px; }
section { background: var(--paper); border: 1px solid var(--faint); border-radius: 12px; padding: 18px 20px;
  margin-bottom: 20px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 16px; }
.wide { margin-bottom: 12px; overflow-x: auto; } .wide svg { min-width: 760px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 12px; }
.scroll { overflow: auto; max-height: 700px; }
.tag { display: inline-block; border-radius: 99px; padding: 0 9px; font-size: 12px; border: 1px solid currentColor; }
.exact { color: var(--good); } .caution { color: #b7791f; } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th { position: sticky; top: 0; background: var(--paper); color: var(--soft); font-weight: 600; text-align: right;
  padding: 6px 10px; border-bottom: 2px solid var(--faint); white-space: nowrap; z-index: 1; }
td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th.l, td.l { text-align: left; }
ul.errors { list-style: none; margin: 12px 0 0; padding: 0; font-size: 13px; overflow-wrap: anywhere; }
td.key { font-weight: 650; color: var(--accent); }
tr.best td { background: var(--tint); font-weight: 600; }
i.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }
.meter { display: inline-block; width: 160px; height: 8px; background: var(--faint); border-radius: 9px;
  vertical-align: middle; margin-right: 8px; overflow: hidden; }
.meter i { display: block; height: 100%; background: var(--accent); }
pre { margin: 0; overflow-x: auto; font-size: 12.5px; line-height: 1.45; font-family: ui-monospace, "SF Mono", Menlo,
  Consolas, "DejaVu Sans Mono", monospace; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg text { fill: var(--soft); font-size: 11.5px; }
svg .label { font-size: 12px; } svg .strong { fill: var(--ink); font-weight: 650; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--faint); } svg .axis { stroke: var(--soft); stroke-opacity: .5; }
svg .line { fill: none; stroke-width: 1.6; stroke-opacity: .75; stroke-linejoin: round; }
svg .muted { stroke: var(--soft); stroke-width: 1; stroke-opacity: .28; }
svg .best { stroke-opacity: 1; } svg .line.best { stroke-width: 3.2; }
svg g:hover .line { stroke-width: 4; stroke-opacity: 1; }
svg .dot { fill-opacity: .7; }
svg .crowd { fill: var(--accent); fill-opacity: .4; }
svg .dot.best { fill-opacity: 1; stroke: var(--ink); stroke-width: 1.5; }
svg .median { stroke: var(--ink); stroke-width: 2; stroke-opacity: .65; }
svg .lane { fill: var(--faint); fill-opacity: .45; } svg .v { fill-opacity: .55; }
svg .run { stroke: var(--soft); stroke-dasharray: 4 3; }
footer { max-width: 1200px; margin: 0 auto; padding: 4px 24px 36px; }
@media print { body { background: #fff; } section { break-inside: avoid; } .scroll { max-height: none; } }
"""
