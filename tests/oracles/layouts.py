"""Cases of megatron's --pipeline-model-parallel-layout: the stages it reads from the text.

The first are those of its own documentation.
"""

from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

from tests.oracles.cases import Cases, Draw, case

LAYOUTS = {
    "Et*3|(tt|)*29,m|L": 61,
    "E|(t|)*3,m|m||L": 3,
    "E||t|L": 1,
    "Ettt|(tt|)*29,m|L": 61,
    "Et*8L": 8,
    "EtL": 1,
    "Et|tL": 2,
    "Et*5|(t*5|)*3,t*4L": 24,
    "Et*3|(t*5|)*4,(t*4|)*6,t*5L": 52,
    "Et*4|(t*5|)*2,tt|t*3|ttL": 21,
    "Ett|(t*2|t|)*2,tttL": 11,
    "E,t*3,|,t,t,|,t,L": 6,
    "(Et)*1|tL": 2,
    "Et|*2tL": 2,
    "Et*1,0|tL": 11,
    "Et*0t|tL": 2,
    "E(t*3|)*2,t*0L": 6,
    "(t*2|Et)*1|tL": 4,
    "|Et|ttL": 3,
    "E|tt|tL": 3,
    "Et|tt|L": 3,
    "tE|tL": 2,
    "Et|Lt": 2,
    "Et|t": 2,
    "t|tL": 2,
    "EEt|tL": 2,
    "Et|tLL": 2,
    "Et|tL|": 2,
    "Et t|L": 2,
    "et|tL": 2,
    "Ex|tL": 2,
    "Et3|tL": 4,
    "E(tt)|tL": 3,
    "E()*2t|tL": 2,
    "Et*2*2|tL": 5,
    "E(t(t)*2|)*2,tL": 7,
    "Et*|tL": 2,
    "*2Et|tL": 2,
    "E(t|)*2,tL)": 3,
    "": 1,
}
SYMBOLS = {
    LayerType.embedding: "E",
    LayerType.decoder: "t",
    LayerType.mtp: "m",
    LayerType.loss: "L",
}


def layouts(draw: Draw) -> Cases:
    asked = [*LAYOUTS.items(), ("Et|tL", 3)]
    for layout, layers in asked:
        yield (
            f"{layout} of {layers}",
            case({"layout": layout, "layers": layers}, {}, {"parts": _parts(layout, layers)}),
        )


def _parts(layout: str, layers: int) -> list[str] | None:
    try:
        count = PipelineParallelLayerLayout.get_num_stages_from_str(layout)
        read = PipelineParallelLayerLayout(layout, count)
        symbols = ["".join(SYMBOLS[kind] for kind in row[0]) for row in read.layout]
        read.validate_layer_layout(layers, "".join(symbols).count("m"))
    except (AssertionError, IndexError):
        return None
    return symbols
