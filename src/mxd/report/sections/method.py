"""The method in pseudocode: the paper publishes none."""

from mxd.report.blocks import Listing, Prose, Section

_LAYER = """\
x: input of the MLP (I)          y: its output (O), what the layer learns to give

z = φ(E x + e)                   dense hidden units (H)
    GLU: z = φ(E x + e) ⊙ (E' x + e')
a = TopK(ReLU(G x + g))          expert coefficients (N), at most K of them above zero
ŷ = (Cᵀ a) ⊙ (Dᵀ z) + b          C: modulators (N × O), D: shared decoder (H × O)

the same as  ŷ = Σₙ aₙ Wₙᵀ z + b   with expert n's matrix  Wₙ = D diag(cₙ),
which has the rank of D wherever cₙ has no zero"""

_BASELINES = """\
transcoder          ŷ = W TopK(ReLU(V x + v)) + b
skip transcoder     ŷ = W TopK(ReLU(V x + v)) + S x + b
TopK autoencoder    ŷ = W TopK(ReLU(V (y − b) + v)) + b      after the original MLP
dense MLP           ŷ = Dᵀ φ(E x + e) + b                    control: the ceiling
MLP + transcoder    the sum of both                          control: as active as an MxD"""

_TRAINING = """\
b ← mean of y over the first buffer;  D, S and the skip transcoder's W ← 0;  the rest like nn.Linear
repeat until the token budget is used:
    fill a buffer: run the frozen model over contexts, stop after the last MLP needed,
                   keep (x, y) of every token at every site
    for each batch of shuffled tokens from the buffer:
        for each student (all of them see the same batch):
            loss = mean over tokens of ‖ŷ − y‖² / ‖y‖²       or the loss named above
            AdamW step; learning rate constant after a linear warm-up
            where asked for: rows of C or W back to unit norm"""

_EVALUATION = """\
for each batch of held-out contexts:
    base: loss of every next token with the model as it is
    for each layer: put it in the MLP's place, run the model again
        Δ cross-entropy   mean of (loss with the layer − loss of the base), token by token
        its interval      by document: standard error of Σ differences / Σ tokens
        NMSE              mean of ‖ŷ − y‖² / ‖y‖²
        static NMSE       the same with Cᵀa replaced by its mean over training tokens
        modulation        E‖m − E m‖² / E‖m‖²  with  m = Cᵀa
    once with y at zero and at its mean: the references of loss recovered
over seeds: mean ± t(n − 1; 0.975) · s / √n"""


def method() -> Section:
    """The layer, its baselines, a training run and an evaluation."""
    return Section(
        "Method",
        [
            Prose(
                [
                    "A Mixture of Decoders replaces one MLP of a frozen language model (Oldfield "
                    "et al., Towards Interpretability Without Sacrifice: Faithful Dense Layer "
                    "Decomposition with Mixture of Decoders, arXiv 2505.21364). What this report "
                    "computed, in full:"
                ]
            ),
            Listing("The layer: MxD", _LAYER),
            Listing("What it is compared with, at equal parameters", _BASELINES),
            Listing("Training", _TRAINING),
            Listing("Evaluation", _EVALUATION),
        ],
    )
