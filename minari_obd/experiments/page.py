"""The self-contained HTML page for a report's sections, and its tables and figures."""

import base64
import html

from minari_obd.experiments.table import Line, text_of

__all__ = ["PAGE", "fields_of", "figure_of", "table_of"]

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Offline behaviour distillation: results</title>
<style>
body {{
  margin: 0 auto; max-width: 1180px; padding: 1.2rem;
  font: 16px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff;
}}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: .4rem 0 .6rem; }}
h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #dfe5ec; }}
h3 {{ font-size: .95rem; margin: 1rem 0 .2rem; }}
p {{ max-width: 46rem; margin: .4rem 0 .8rem; }}
code {{ font-size: .88em; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .38rem .7rem; text-align: right; border-bottom: 1px solid #e6ebf1; vertical-align: top; }}
thead th {{ color: #52606d; font-weight: 600; vertical-align: bottom; min-width: 3.2rem; max-width: 11rem; }}
tbody th, thead th:first-child {{ text-align: left; font-weight: 600; }}
tbody th {{ position: sticky; left: 0; background: #fff; }}
small {{ display: block; color: #66737f; white-space: nowrap; }}
.figures {{
  display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
}}
figure {{ margin: 0; }}
img {{ width: 100%; max-width: 620px; height: auto; }}
figcaption {{ color: #52606d; font-size: .88rem; overflow-wrap: anywhere; }}
.missing {{ color: #8a4b08; }}
@media (max-width: 600px) {{
  body {{ padding: .8rem; }}
  th, td {{ padding: .3rem .4rem; }}
  table {{ font-size: .8rem; }}
  tbody th, thead th:first-child {{ max-width: 6.5rem; }}
}}
</style>
</head>
<body>
<h1>Offline behaviour distillation: results</h1>
<p>Students cloned from a few pairs distilled from {datasets}, compared with students cloned from the whole data and
with the teacher.</p>
{made}
{sections}
<section><h2>How this was measured</h2>
{facts}</section>
</body>
</html>
"""


def fields_of(line: Line) -> list[str]:
    """Return a line of the bench's table as a row."""
    return [line.name, str(line.size or "-"), *map(text_of, line.values)]


def figure_of(picture: bytes, caption: str, name: str) -> str:
    """Return a PNG with its caption. ``name`` says what it shows, as alternative text."""
    source, caption = f"data:image/png;base64,{base64.b64encode(picture).decode()}", html.escape(caption)
    return f'<figure><img alt="{name}: {caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def table_of(head: list[str], rows: list[list[str]]) -> str:
    """Return a table that scrolls sideways. Each row begins with its name."""
    cells = "".join(f"<th>{html.escape(cell).replace('/', '/<wbr>')}</th>" for cell in head)
    body = ""
    for name, *values in rows:
        fields = "".join(f"<td>{_broken(value)}</td>" for value in values)
        body += f"<tr><th>{html.escape(name)}</th>{fields}</tr>\n"
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


def _broken(cell: str) -> str:
    """Put an estimate's interval below it."""
    value, separator, interval = cell.partition(" (")
    return f"{html.escape(value)}<small>{html.escape(interval[:-1])}</small>" if separator else html.escape(cell)
