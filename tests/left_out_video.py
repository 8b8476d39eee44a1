"""Classes of diffusers that make video, sound or other things than images, in which no token merges, with the reason."""

FLEX = "its attention is `flex_attention` on a mask of blocks of tokens, which no longer fits once tokens merge"
CACHE = "its blocks keep the keys and values of earlier chunks by position"
PART = "no denoiser, but a part of one"

VIDEO = {
    "AnyFlowFARTransformer3DModel": FLEX,
    "Cosmos3OmniTransformer": "text, frames, sound and actions are one packed sequence without a batch, partly causal",
    "CosmosControlNetModel": "its blocks also return a residual for every token of another model",
    "Kandinsky6SRTransformer3DModel": FLEX,
    "MiniMaxH3Transformer3DModel": "text, frames and sound are one packed sequence; no argument says what grid the frames have",
    "MiniMaxMusic3RVQDepthDecoder": "a language model over the codes of one instant",
    "MotionAdapter": PART,
    "RFD4ProteinaTransformer": "its tokens are atoms and residues, which lie on no grid",
    "SanaWMLTX2RefinerTransformer3DModel": CACHE,
    "SanaWMTransformer3DModel": "its attention is a recurrence over frames, without scores",
    "T5FilmDecoder": "deprecated in diffusers; attention and norm are one module, which adds its output to its input",
    "TransformerTemporalModel": PART,
    "UNet1DModel": "its attention is part of convolutional blocks on (B, C, n), without a transformer block",
    "WanAnimate2Transformer3DModel": CACHE,
}
