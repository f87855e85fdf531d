"""quantized.json and quantized/: values in 8 and 4 bits by bitsandbytes 0.50 (CPU), and in GGUF's blocks by
the Python package of llama.cpp (gguf 0.17).

int8       source [3, 40], values, scales, dequantized
nf4        source [3, 128], packed values, indices and scales of scales, dequantized
code       the 256 values of the dynamic type
blocks     for each kind the bytes of a row of 256 values (base64), and the values they stand for
quantized/ model.safetensors: the same two matrices as bitsandbytes saves them, `a` and `b`
"""

import base64

import bitsandbytes.functional as F
import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from common import HERE, write_json

torch.manual_seed(5)
numbers = lambda t: t.flatten().tolist()
record = {}

a = torch.randn(3, 40) * 0.1
a[1, 7] = 3.0
a[2] = 0.0
values, scales, _ = F.int8_vectorwise_quant(a.clone())
record["int8"] = {"source": numbers(a), "values": numbers(values), "scales": numbers(scales),
                  "dequantized": numbers(torch.ops.bitsandbytes.int8_vectorwise_dequant(values, scales))}

b = torch.randn(3, 128) * 0.05
packed, state = F.quantize_4bit(b, blocksize=64, quant_type="nf4", compress_statistics=True)
record["nf4"] = {"source": numbers(b), "packed": numbers(packed), "indices": numbers(state.absmax),
                 "nested": numbers(state.state2.absmax), "offset": state.offset.item(),
                 "dequantized": numbers(F.dequantize_4bit(packed, state))}
record["code"] = numbers(state.state2.code)

record["blocks"] = {}
generator = np.random.default_rng(7)
kinds = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
for kind in kinds:
    dtype = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[dtype]
    rows = np.empty((1, 256 // block * size), np.uint8)
    rows[:] = generator.integers(0, 256, rows.shape)
    # Half-precision scales that are finite and of a weight's size.
    starts = {"Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}
    for first in range(0, rows.shape[1], size):
        for at in starts.get(kind, [0]):
            scale = np.float16(generator.uniform(-0.02, 0.02)).tobytes()
            rows[:, first + at : first + at + 2] = np.frombuffer(scale, np.uint8)
    wide = gguf.quants.dequantize(rows, dtype)
    record["blocks"][kind] = {"bytes": base64.b64encode(rows.tobytes()).decode(),
                              "values": [float(f"{x:.9g}") for x in wide.flatten().tolist()]}
write_json(HERE / "quantized.json", record)

out = HERE / "quantized"
out.mkdir(exist_ok=True)
stored = {"a.weight": values, "a.SCB": scales, "a.weight_format": torch.tensor(0, dtype=torch.uint8), "b.weight": packed}
stored |= {f"b.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
save_file(stored, out / "model.safetensors", {"format": "pt"})
