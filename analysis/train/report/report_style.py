"""The report's style sheet: a light page for a screen of any width and for A4; nothing comes from outside."""

FAMILY = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", Arial, sans-serif'
)

# Contrast of every text on its ground is at least 4.5 : 1; a test computes it.
INK = "#1d2733"
QUIET = "#4a5663"
GROUND = "#ffffff"
SHADE = "#f3f6f9"
WARNING_INK = "#6b1200"
WARNING_GROUND = "#fdecea"
LINK = "#0b4f8a"

STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: {GROUND}; color: {INK}; font: 16px/1.55 {FAMILY}; overflow-wrap: break-word; }}
header, main, footer {{ max-width: 1200px; margin: 0 auto; padding: 0 20px; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; margin: 1.6rem 0 .3rem; }}
h2 {{ font-size: 1.3rem; line-height: 1.25; margin: 2.6rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid #d4dbe2; }}
h3 {{ font-size: 1.05rem; margin: 1.5rem 0 .4rem; }}
p, ul, dl {{ margin: .5rem 0 .8rem; max-width: 46rem; }}
ul {{ padding-left: 1.2rem; }}
li {{ margin: .25rem 0; }}
a {{ color: {LINK}; }}
.quiet, .note {{ color: {QUIET}; }}
.note {{ font-size: .875rem; margin-top: .25rem; }}
.warning {{ background: {WARNING_GROUND}; color: {WARNING_INK}; border-left: 6px solid #b3261e; padding: .7rem 1rem;
  margin: 1rem 0; max-width: none; }}
.warning p {{ margin: .1rem 0; max-width: none; }}
.warning p:first-child {{ font-weight: 700; font-size: 1.1rem; }}
nav ol {{ display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; padding: 0; margin: .8rem 0; list-style: none; }}
nav li {{ margin: 0; font-size: .94rem; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(235px, 1fr)); gap: 12px; max-width: none;
  margin: 1rem 0; }}
.tiles div {{ background: {SHADE}; border: 1px solid #dde4ea; border-radius: 6px; padding: .7rem .9rem; }}
.endpoints {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 0 40px; }}
.endpoints ul {{ margin: .2rem 0 .8rem; }}
.lead {{ font-weight: 600; margin: .7rem 0 0; }}
small {{ display: block; font-size: .8125rem; color: {QUIET}; }}
details summary {{ cursor: pointer; color: {LINK}; font-size: .94rem; padding: .3rem 0; }}
.tiles dt {{ font-size: .875rem; color: {QUIET}; }}
.tiles dd {{ margin: 0; white-space: pre-line; font-size: .9375rem; }}
.tiles dd::first-line {{ font-weight: 700; font-size: 1.2rem; }}
.facts div {{ display: grid; grid-template-columns: minmax(9rem, 13rem) 1fr; gap: .8rem; padding: .15rem 0; }}
.glossary div {{ margin: .5rem 0; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; margin: 1rem 0 .5rem; }}
.scroll:focus-visible {{ outline: 3px solid {LINK}; outline-offset: 2px; }}
table {{ border-collapse: collapse; font-size: .875rem; line-height: 1.35; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; font-size: 1rem; padding-bottom: .4rem; }}
th, td {{ padding: .38rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #dde4ea; }}
td {{ white-space: nowrap; }}
thead th {{ background: {SHADE}; vertical-align: bottom; border-bottom: 1px solid #b9c3cd; }}
thead th[scope=colgroup] {{ border-left: 1px solid #b9c3cd; }}
tbody th {{ font-weight: 500; min-width: 9rem; }}
tbody th.long {{ overflow-wrap: anywhere; max-width: 24rem; min-width: 11rem; }}
tr.strong > * {{ font-weight: 700; background: #e8f0f8; }}
tr.baseline > *, tr.oracle > * {{ background: #faf7f0; }}
tr.paper > * {{ background: {SHADE}; color: {QUIET}; font-style: italic; }}
td.few {{ color: {QUIET}; font-style: italic; }}
.tag {{ display: inline-block; font-size: .85em; font-style: normal; font-weight: 600; color: {QUIET};
  border: 1px solid #8a96a3;
  border-radius: 3px; padding: 0 .3rem; margin-left: .25rem; white-space: nowrap; }}
.influence {{ min-width: 11rem; }}
.bar {{ display: block; height: 7px; margin-top: 3px; background: #0b559f; border-radius: 1px; min-width: 1px; }}
.bar.clinical {{ background: #a34700; }}
.bar.deep {{ background: #7b3294; }}
.bar.other {{ background: #4d4d4d; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 255px), 1fr)); gap: 18px;
  margin: 1rem 0; }}
.figures.wide {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }}
figure {{ margin: 0; max-width: 380px; }}
.wide figure {{ max-width: 480px; }}
figcaption {{ font-weight: 600; font-size: .9375rem; margin-bottom: .3rem; }}
svg {{ display: block; width: 100%; height: auto; }}
svg * {{ stroke-linejoin: round; stroke-linecap: butt; }}
svg text {{ font-family: {FAMILY} !important; }}
footer {{ color: {QUIET}; font-size: .875rem; padding-top: 1rem; padding-bottom: 3rem; margin-top: 2rem;
  border-top: 1px solid #d4dbe2; }}
@media (max-width: 640px) {{
  header, main, footer {{ padding-left: 14px; padding-right: 14px; }}
  h1 {{ font-size: 1.4rem; }}
  .facts div {{ grid-template-columns: 1fr; gap: 0; }}
}}
@page {{ size: A4; margin: 14mm 13mm 16mm; @bottom-center {{ content: "FOOT"; font: 8pt {FAMILY};
  color: {WARNING_INK}; }}
  @bottom-right {{ content: counter(page) " / " counter(pages); font: 8pt {FAMILY}; color: {QUIET}; }} }}
@media print {{
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  body {{ font-size: 10pt; }}
  header, main, footer {{ max-width: none; padding: 0; }}
  nav, details summary {{ display: none; }}
  details::details-content {{ content-visibility: visible; display: block; height: auto; }}
  h2, h3, caption, figcaption {{ break-after: avoid; }}
  figure, tr, .warning, .tiles div {{ break-inside: avoid; }}
  .scroll {{ overflow: visible; }}
  table {{ font-size: 7.4pt; min-width: 0; width: 100%; }}
  th, td {{ padding: 1.6pt 2.5pt; }}
  td {{ white-space: normal; }}
  small {{ font-size: 6.5pt; white-space: nowrap; }}
  tbody th, tbody th.long {{ min-width: 0; }}
  .influence {{ min-width: 60pt; }}
  .figures {{ grid-template-columns: repeat(3, 1fr); gap: 8pt; }}
  .figures.wide {{ grid-template-columns: repeat(2, 1fr); }}
  h2 {{ margin-top: 1.4rem; }}
  .endpoints {{ grid-template-columns: 1fr 1fr; gap: 0 16pt; }}
  a {{ color: inherit; text-decoration: none; }}
}}
"""
