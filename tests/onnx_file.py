"""Writes what a test wants read as an ONNX file: weights, and operations by kind and inputs."""


def varint(value):
    """A whole number, seven bits to a byte."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number, value):
    """A field of a message: a number, a text or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, value):
    """A float32 weight."""
    dims = b"".join(field(1, size) for size in value.shape)
    return dims + field(2, 1) + field(8, name) + field(9, value.detach().contiguous().numpy().astype("<f4").tobytes())


def node(kind, name, inputs):
    """An operation."""
    return b"".join(field(1, each) for each in inputs) + field(3, name) + field(4, kind)


def onnx_file(weights, nodes):
    """The content of a file."""
    parts = [field(1, node(*each)) for each in nodes] + [field(5, tensor(*each)) for each in weights.items()]
    return field(1, 8) + field(2, "a test") + field(7, b"".join(parts))


def terrain_file(net):
    """The file of a :class:`TerrainUNet`, its normalizations anonymous as in the real one."""
    norms, names = net.norms(), {module: name for name, module in net.named_modules()}
    anonymous = {f"{names[norm]}.{each}" for norm in norms for each in ("weight", "bias")}
    weights, nodes = {}, []
    for name, value in net.state_dict().items():
        if name not in anonymous:
            linear = ".attention." in name and name.endswith("weight")
            weights["model." + name.replace(".attention.", ".")] = value[..., None] if linear else value
    for i, norm in enumerate(norms):
        weights |= {f"scale_{i}": norm.weight[:, None, None], f"shift_{i}": norm.bias[:, None, None]}
        nodes += [("InstanceNormalization", names[norm], ("x",)), ("Reshape", "", ("x", "shape"))]
        nodes += [("Mul", "", ("x", f"scale_{i}")), ("Add", "", ("x", f"shift_{i}")), ("Mul", "", ("x", "x"))]
    return onnx_file(weights, nodes)


def seer_file(seer, old):
    """The file of a :class:`Seer`, its matrices and its table of positions anonymous as in the real one.

    Args:
        seer: the model.
        old: from its names of parameters to those of the file.
    """
    weights, nodes = {}, []
    for name, value in seer.transformer.state_dict().items():
        for new, file in old.items():
            name = name.replace(new, file)
        if name == "embeddings.position_embeddings":
            weights |= {"onnx::Concat_1": value[:, :1], "onnx::Reshape_2": value[:, 1:]}
        elif value.dim() == 2 and name != "embeddings.mask_token":
            weights[f"onnx::MatMul_{len(nodes)}"] = value.T
            path = "/backbone/" + name.removesuffix(".weight").replace(".", "/") + "/MatMul"
            nodes.append(("MatMul", path, ("x", f"onnx::MatMul_{len(nodes)}")))
        elif name != "embeddings.mask_token":
            weights[f"backbone.{name}"] = value
    decoder = {name: value for name, value in seer.decoder.state_dict().items() if not name.endswith("num_batches_tracked")}
    return onnx_file(weights | {f"decoder.{name}": value for name, value in decoder.items()}, [*nodes, ("Sigmoid", "", ("x",))])
