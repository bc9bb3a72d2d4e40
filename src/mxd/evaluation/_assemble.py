"""From running sums to figures."""

from mxd.evaluation._sums import Sums
from mxd.evaluation.figures import (
    DocumentTotals,
    Evaluation,
    LayerFigures,
    SiteFigures,
    TogetherFigures,
)
from mxd.evaluation.reconstruction import Usage


def assemble(sums: Sums) -> Evaluation:
    """The figures of everything that was added."""
    one = len(sums.sites) == 1
    zero = next(iter(sums.zero.values())) if one else sums.all_zero
    mean = next(iter(sums.mean.values())) if one else sums.all_mean
    return Evaluation(
        tokens=sums.tokens,
        predicted_tokens=sums.base.tokens,
        documents=int((sums.base.loss.counts > 0).sum()),
        base_cross_entropy=sums.base.mean_loss,
        zero_ablation_cross_entropy=zero.mean_loss,
        mean_ablation_cross_entropy=mean.mean_loss,
        static_reference=sums.static_reference,
        layers=[_layer(sums, site, name) for site, name in sums.predicted],
        sites=[_site(sums, site) for site in sums.sites],
        together=[_together(sums, name, zero.mean_loss) for name in sums.together],
        by_document={
            pair: DocumentTotals(delta=totals.delta, nmse=sums.rebuilt[pair].by_document)
            for pair, totals in sums.predicted.items()
        },
    )


def _recovered(sums: Sums, loss: float, zero: float) -> float:
    gap = zero - sums.base.mean_loss
    return (zero - loss) / gap if gap else float("nan")


def _layer(sums: Sums, site: str, name: str) -> LayerFigures:
    layer = sums.layers[site][name]
    rebuilt, predicted = sums.rebuilt[site, name], sums.predicted[site, name]
    usage, delta = rebuilt.usage(), predicted.delta.estimate()
    units = layer.config.n_units
    unused = dict.fromkeys(Usage._fields)
    return LayerFigures(
        name=name,
        site=site,
        architecture=layer.config.architecture,
        k=getattr(layer.config, "k", None),
        width=units or None,
        seed=layer.provenance.seed,
        **layer.cost()._asdict(),
        nmse=rebuilt.nmse,
        nmse_without_bos=rebuilt.nmse_without_bos,
        fvu=rebuilt.fvu,
        static_nmse=rebuilt.static_nmse,
        modulation_share=rebuilt.modulation_share,
        cross_entropy=predicted.mean_loss,
        delta_cross_entropy=delta.mean,
        delta_cross_entropy_se=delta.standard_error,
        loss_recovered=_recovered(sums, predicted.mean_loss, sums.zero[site].mean_loss),
        kl=predicted.mean_kl,
        **(unused if usage is None else usage._asdict()),
    )


def _site(sums: Sums, site: str) -> SiteFigures:
    name = next(iter(sums.layers[site]))
    return SiteFigures(
        site=site,
        zero_ablation_cross_entropy=sums.zero[site].mean_loss,
        mean_ablation_cross_entropy=sums.mean[site].mean_loss,
        zero_output_tokens=sums.rebuilt[site, name].zero_tokens,
    )


def _together(sums: Sums, name: str, zero: float) -> TogetherFigures:
    totals = sums.together[name]
    delta = totals.delta.estimate()
    return TogetherFigures(
        name=name,
        sites=[site for site, students in sums.layers.items() if name in students],
        cross_entropy=totals.mean_loss,
        delta_cross_entropy=delta.mean,
        delta_cross_entropy_se=delta.standard_error,
        loss_recovered=_recovered(sums, totals.mean_loss, zero),
        kl=totals.mean_kl,
    )
