"""What is measured, and against what."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contestant:
    """A program in `contestants/`, with its arguments and the packages of its environment.

    Without packages it runs in this project's own environment.
    """

    name: str
    command: tuple[str, ...]
    packages: tuple[str, ...] = ()


CONTESTANTS = {
    each.name: each
    for each in (
        Contestant("generate_many", ("ours.py", "generate_many")),
        Contestant("asset", ("ours.py", "asset")),
        Contestant("openai", ("openai_loop.py",), ("openai",)),
        Contestant("litellm", ("litellm_loop.py",), ("litellm",)),
        Contestant("data_designer", ("nemo_data_designer.py",), ("data-designer",)),
        Contestant("bare", ("bare_loop.py", "plain"), ("aiohttp",)),
        Contestant("bare+fsync", ("bare_loop.py", "fsync"), ("aiohttp",)),
    )
}


@dataclass(frozen=True)
class Load:
    """So many images, of one size, from an endpoint that takes so long for each."""

    name: str
    size_bytes: int
    milliseconds: int
    in_flight: int
    images: int
    measure: str = "images_per_second"
    contestants: tuple[str, ...] = field(default_factory=lambda: tuple(CONTESTANTS))

    @property
    def title(self) -> str:
        """One line for tables and charts."""
        return (
            f"{self.size_bytes / 1e6:g} MB, {self.milliseconds / 1000:g} s, {self.in_flight} in "
            f"flight, {self.images:,} images"
        )


LOADS = {
    each.name: each
    for each in (
        Load("small", 200_000, 100, 128, 1_500),
        Load("large", 1_500_000, 500, 64, 400),
        Load("no_latency", 1_500_000, 0, 16, 300, measure="cpu_ms_per_image"),
        Load(
            "climb",
            20_000,
            500,
            256,
            2_000,
            measure="seconds",
            contestants=("generate_many", "bare"),
        ),
        # To be compared with itself at another `--scale`: how memory grows with the images.
        Load(
            "memory",
            200_000,
            0,
            64,
            5_000,
            measure="peak_rss_mb",
            contestants=("generate_many",),
        ),
    )
}
