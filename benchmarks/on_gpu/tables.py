"""Print what was measured, part by part."""

from typing import Any


def show(part: str, result: Any) -> None:
    """A few lines for a person."""
    _SHOWN[part](result)


def _checks(result: list[dict[str, Any]]) -> None:
    for entry in result:
        print(f"{entry['what']:<48} {entry['error']:9.1e}  (at most {entry['tolerance']:.0e})")


def _ceilings(result: dict[str, Any]) -> None:
    rates = ", ".join(f"{name} {rate / 1e12:.1f}" for name, rate in result["flops"].items())
    print(f"TFLOP/s: {rates}; copy {result['bytes_per_second'] / 1e9:.0f} GB/s")


def _kernels(result: dict[str, list[dict[str, Any]]]) -> None:
    for shape, entries in result.items():
        print(f"{shape:<16} {'dtype':<9} {'by':<7} {'µs':>9} {'roofline':>9} {'recall':>7}")
        for e in entries:
            recall = f"{e['recall']:.4f}" if "recall" in e else ""
            print(
                f"{e['kernel']:<16} {e['dtype']:<9} {e['contender']:<7} "
                f"{e['seconds']['median'] * 1e6:9.1f} {e['share_of_roofline']:9.1%} {recall:>7}"
            )


def _steps(result: dict[str, list[dict[str, Any]]]) -> None:
    for shape, entries in result.items():
        for e in entries:
            print(
                f"{shape} {e['architecture']}: {e['speed_up_over_obvious_float32']:.1f} × the "
                f"obvious float32 step, {e['speed_up_over_obvious_autocast']:.1f} × autocast"
            )
            for name, time in e["seconds"].items():
                peak = e["peak_bytes_beyond_parameters_gradients_and_state"][name]
                memory = "" if peak is None else f"{peak / 2**20:9.0f} MiB"
                print(f"  {name:<24} {time['median'] * 1e3:9.3f} ms {memory}")


def _training(result: list[dict[str, Any]]) -> None:
    for e in result:
        print(
            f"{e['architecture']}, {e['what']}, {e['contexts_in_a_pass']} contexts a pass, "
            f"{e['passes_ahead']} ahead: {e['tokens_per_second']:,.0f} tokens/s "
            f"({e['share_of_target']:.0%} of the target)"
        )


def _generation(result: list[dict[str, Any]]) -> None:
    for e in result:
        times = ", ".join(f"{n} {s * 1e3:.3f} ms" for n, s in e["seconds_per_position"].items())
        print(f"{e['sequences']} sequences: {times}")


_SHOWN = {
    "checks": _checks,
    "ceilings": _ceilings,
    "kernels": _kernels,
    "steps": _steps,
    "training": _training,
    "generation": _generation,
}
