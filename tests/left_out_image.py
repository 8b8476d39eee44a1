"""Classes of diffusers that make images, or take part in it, in which no token merges, with the reason."""

NETS = "holds several ControlNets, each of which merges by itself"
PART = "no denoiser, but a part of one"

IMAGE = {
    "BriaFibo2Transformer2DModel": "where the image begins depends on how long the texts of a batch are",
    "ControlNetXSAdapter": PART,
    "DreamLiteTransformer2DModel": PART,
    "ErnieImageTransformer2DModel": "its blocks take (tokens, B, C), with the batch in the second place",
    "FluxMultiControlNetModel": NETS,
    "HunyuanDiT2DMultiControlNetModel": NETS,
    "JoyImageEditPlusTransformer3DModel": "images of several sizes are one padded sequence, another in every row",
    "MultiControlNetModel": NETS,
    "MultiControlNetUnionModel": NETS,
    "PriorTransformer": "its tokens are words and embeddings, which lie on no grid",
    "QwenImage21Transformer2DModel": "its attention runs piece by piece, over longer and longer parts of one sequence",
    "QwenImageMultiControlNetModel": NETS,
    "SD3MultiControlNetModel": NETS,
    "Transformer2DModel": PART,
    "UVit2DModel": "it fills in masked tokens of a vocabulary, without a timestep",
    "ZImageControlNetModel": "its blocks return a stack of all their outputs so far",
}
