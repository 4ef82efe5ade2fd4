"""The ``moirelib`` command: one sub-command for each stage, from simulation to analysis."""

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

UNFINISHED = "unfinished"  # folder of finished frames, in that of the results; gone once all movies are done
_EXAMPLES = """\
examples:
  moirelib decompose movie.dm4 --out movie_layers
  moirelib decompose frames.tif --pixel-size 0.52 --out frames_layers
  moirelib decompose *.dm4 --frames 0:500 --out all_layers
  moirelib analyze movie_layers
  moirelib library --out library --training --seed 1
  moirelib train --library library --out my_unet.safetensors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for bad input, after one line that says what is wrong)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a finished run must not fail on a degree sign in an old code page
    args = _make_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"moirelib: {_describe_error(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moirelib: interrupted", file=sys.stderr)
        return 130
    return 0


def _describe_error(error: Exception) -> str:
    """The message of an error in one line; one of the operating system becomes "No such file or directory: FILE"."""
    text = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.strerror}: {error.filename}"
    return " ".join(text.split())


def _make_parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="moirelib",
        description="Take Moiré lattices of nanoparticles apart, layer by layer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"moirelib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_movie_commands(commands)
    _add_simulation_commands(commands)
    return parser


def _add_command(commands: Any, run: Callable, name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
    """Add the command that `run` carries out; its docstring is the description."""
    form = argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter
    parser = commands.add_parser(name, help=summary, description=run.__doc__, epilog=epilog, formatter_class=form)
    parser.set_defaults(run=run)
    return parser


_DECOMPOSE = """\
writes into DIR:
  layer_1.tif    the base layer's particles alone, 0-255, (t, y, x); opens in Fiji with its scale
  layer_2.tif    the same for the layer on top of it; black where the movie holds one layer only (of three: layer_3.tif)
  particles.csv  one row per particle, layer and frame: position, diameter and their errors in nm
  summary.json   what was run, particle counts, spacings and twist, frames that were left out
  particles.parquet  the same table with all digits
A run that was stopped goes on with the same command, from frames kept in DIR/unfinished until all movies are done;
moirelib analyze DIR takes the frames that are finished so far.

reads {formats};
or a folder of single frames, or of the numbered parts of one recording.
Layer 1 is the layer that reaches furthest; layer_confidence says how sure each particle's layer is.
"""
_ANALYZE = """\
DIR is a folder that moirelib decompose wrote, or any other that holds particles.csv with at least the columns
frame, particle, layer, y_nm, x_nm, or a table that TrackMate or trackpy exported. Written into DIR/analysis:
  report.html     everything on one page that needs no other file
  lattice.csv     spacing and direction of every grain, per frame and layer
  moire.csv       twist and Moiré period per frame
  defects.csv     vacancies, interstitials, dislocations with Burgers vectors, disclinations
  boundaries.csv  grain and twin boundaries
  motion.csv      drift and turn of each layer, per frame, and the dose so far where it is known
  msd.csv         mean squared displacement of each layer, without the localization error's part
  vibrations.csv  amplitude and spring constant of every particle
  phonons.csv     stiffness of plane waves along Γ-M-K-Γ
  growth.csv      particles that came and went
  figures (.png) and tracks.gif, of at most 200 frames
An analysis that the particles do not allow is left out, with a line that says why.
--only writes the named tables and their report, and no tracks.gif; what an earlier run wrote besides stays.
"""
_DEVICE: dict[str, Any] = {"default": "auto", "choices": ["auto", "cpu", "cuda", "mps"], "help": "where to compute"}


def _add_movie_commands(commands: Any) -> None:
    from .movies.formats import list_formats

    epilog = _DECOMPOSE.format(formats=textwrap.fill(list_formats(), 100))
    summary = "split a movie into one movie per layer and a table of particles"
    p = _add_command(commands, _decompose, "decompose", summary, epilog)
    what = "movie, single image or folder of frames; of several, each has its folder"
    p.add_argument("movies", metavar="MOVIE", nargs="+", help=what)
    p.add_argument("--out", required=True, metavar="DIR", help="folder for the results; made if absent")
    p.add_argument("--pixel-size", type=float, metavar="NM", help="nm per pixel; needed where the file has no scale")
    p.add_argument("--frame-time", type=float, metavar="S", help="seconds per frame; needed where the file has none")
    p.add_argument("--diameter", type=float, metavar="NM", help="rough particle diameter; estimated when not given")
    p.add_argument("--layers", type=int, choices=[1, 2, 3], help="how many there are; found when not given")
    p.add_argument("--weights", metavar="FILE", help="other network weights (.safetensors)")
    p.add_argument("--frames", metavar="A:B:STEP", help="only these frames, as in Python: 100:200, ::10")
    p.add_argument("--roi", metavar="Y0:Y1,X0:X1", help="only this part of the field of view, in pixels")
    scheduler = "address of a Dask scheduler whose workers find the particles"
    p.add_argument("--scheduler", metavar="ADDRESS", help=scheduler)
    p.add_argument("--device", **_DEVICE)
    summary = "vibrations, order, defects and growth of a decomposed movie"
    p = _add_command(commands, _analyze, "analyze", summary, _ANALYZE)
    p.add_argument("folder", metavar="DIR", help="folder with particles.csv")
    p.add_argument("--pixel-size", type=float, metavar="NM", help="nm per pixel; needed where the table is in pixels")
    p.add_argument("--frame-time", type=float, metavar="S", help="seconds per frame, instead of that in summary.json")
    p.add_argument(
        "--dose", type=float, metavar="E", help="electrons/Å² in each frame, instead of that in summary.json"
    )
    p.add_argument("--only", metavar="TABLES", help="only these, such as vibrations,defects (names as above)")
    p.add_argument("--no-movie", action="store_true", help="do not write tracks.gif")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="processes for a long movie (default 2)")
    p = _add_command(commands, _export, "export", "particles as sites in three dimensions, for OVITO and ASE")
    p.add_argument("folder", metavar="DIR", help="folder with particles.csv")
    p.add_argument("--out", required=True, metavar="FILE", help="file to write, such as particles.extxyz")
    p.add_argument("--format", default="extxyz", choices=["extxyz"], help="extxyz (default)")
    p.add_argument("--gap", type=float, metavar="NM", help="height of a layer over the next; default: the diameter")


def _add_simulation_commands(commands: Any) -> None:
    p = _add_command(commands, _library, "library", "simulate a training library")
    p.add_argument("--out", required=True, metavar="DIR", help="Zarr store")
    p.add_argument("--images", type=int, metavar="N", help="number of images (default 400; 24 with --fast)")
    p.add_argument("--size", type=int, metavar="PX", help="edge of an image in pixels")
    preset = p.add_mutually_exclusive_group()
    preset.add_argument("--fast", action="store_true", help="a few small images")
    preset.add_argument("--training", action="store_true", help="as many and as varied as trained the shipped weights")
    p.add_argument("--layers", type=int, default=2, help="with --training: most layers of a scene (default 2)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=2, help="local processes (default 2)")
    p.add_argument("--scheduler", metavar="ADDRESS", help="address of a Dask scheduler to use instead")
    p = _add_command(commands, _train, "train", "train the network on a library")
    p.add_argument("--library", required=True, metavar="DIR", help="Zarr store made by moirelib library")
    p.add_argument("--out", required=True, metavar="FILE", help="weights to write (.safetensors)")
    p.add_argument("--steps", type=int, help="optimiser steps (default 8000, 30 with --fast; a CPU takes hours)")
    p.add_argument("--batch", type=int, help="crops in each step (default 16, 4 with --fast)")
    p.add_argument("--start", metavar="FILE", help="weights to go on from, at half the rate; perhaps of fewer layers")
    p.add_argument("--fast", action="store_true", help="a toy of 30 steps")
    p.add_argument("--workers", type=int, metavar="N", help="processes that prepare crops (default 8 on CUDA, else 0)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", **_DEVICE)
    p = _add_command(commands, _train_layers, "train-layers", "train the network of points that tells layers apart")
    p.add_argument("--out", required=True, metavar="FILE", help="weights to write (.safetensors)")
    p.add_argument("--minutes", type=float, default=85.0, help="wall time on one core (default 85)")
    p.add_argument("--seed", type=int, default=0, help="seed of weights and points (default 0)")
    p.add_argument("--start", metavar="FILE", help="weights to go on from")


def _decompose(args: argparse.Namespace) -> None:
    """Split a movie into one movie per nanoparticle layer and a table of every particle in every frame."""
    names = [os.path.splitext(os.path.basename(os.path.normpath(movie)))[0] for movie in args.movies]
    if len(set(names)) < len(names):
        raise ValueError(f"two movies have the same name ({', '.join(sorted(names))}); decompose them one by one")
    folders, failed = [os.path.join(args.out, name) if len(names) > 1 else args.out for name in names], []
    for movie, out in zip(args.movies, folders, strict=True):
        try:
            _decompose_one(args, movie, out)
        except Exception as error:  # any: the other movies are still to come
            if len(names) == 1:
                raise
            failed.append(movie)
            print(f"moirelib: {movie}: {_describe_error(error)}", file=sys.stderr)
    if failed:
        raise ValueError(f"{len(failed)} of {len(names)} movies failed: {', '.join(failed)}")
    for out in folders:  # until now, the same command would have computed no frame again
        shutil.rmtree(os.path.join(out, UNFINISHED), ignore_errors=True)


def _decompose_one(args: argparse.Namespace, path: str, out: str) -> None:
    """Decompose one movie. Finished frames are kept in a folder `UNFINISHED` of its results."""
    from .decomposition.pipeline import decompose
    from .movies.movie import cut_movie
    from .movies.reading import read_movie
    from .output import output_folder

    with output_folder(out):
        pass  # a folder that cannot be written is refused now, not after hours
    movie = cut_movie(read_movie(path, args.pixel_size, args.frame_time), args.frames, args.roi)
    for note in movie.notes:
        print(f"moirelib: {path}: {note}", file=sys.stderr)
    scheduler = args.scheduler if not args.scheduler or "://" in args.scheduler else f"tcp://{args.scheduler}"
    where, kept = scheduler or args.device, os.path.join(out, UNFINISHED)
    known = {"diameter": args.diameter, "layers": args.layers, "weights": args.weights}
    result = decompose(movie, **known, device=where, progress=True, checkpoint=kept)
    result.save(out)
    s = result.summary
    print(f"{s['frames']} frame(s), {' + '.join(map(str, s['particles'].values()))} particles -> {out}")
    print(s["note"])


def _analyze(args: argparse.Namespace) -> None:
    """Run every analysis that the particles of a decomposed movie support."""
    from .analysis.pipeline import analyze, read_particles, read_recording
    from .analysis.report import name_files, write_analysis
    from .movies.calibration import DOSE, FRAME_TIME, override_scale
    from .output import output_folder

    only = None if args.only is None else [name.strip() for name in args.only.split(",")]
    files, particles = name_files(only), read_particles(args.folder, args.pixel_size)
    base = os.path.dirname(args.folder) if os.path.isfile(args.folder) else args.folder
    out = os.path.join(base, "analysis")
    with output_folder(out, replaces=files) as folder:
        recording = read_recording(base)
        for key, given, quantity in (("frame_time", args.frame_time, FRAME_TIME), ("dose", args.dose, DOSE)):
            recording[key] = override_scale(recording[key], given, quantity, args.folder)
        result = analyze(particles, progress=True, only=only, workers=args.workers, **recording)
        name = os.path.basename(os.path.abspath(args.folder))
        write_analysis(result, folder, name, movie=only is None and not args.no_movie, progress=True)
    print(f"{', '.join(f'{name}.csv' for name in result.tables)}, report.html -> {out}")
    for name, note in result.notes.items():
        print(f"{name}: {note}")


def _export(args: argparse.Namespace) -> None:
    """Write all particles as sites (x, y, z in Å; z from the layer) into an extended XYZ file."""
    import ase.io

    from .analysis.pipeline import read_particles
    from .decomposition.atoms import to_atoms

    frames, part = to_atoms(read_particles(args.folder), args.gap), f"{args.out}.part"
    ase.io.write(part, frames, format=args.format)
    os.replace(part, args.out)
    print(f"{len(frames)} frame(s), {sum(map(len, frames))} particles -> {args.out}")


def _library(args: argparse.Namespace) -> None:
    """Simulate a training library into a Zarr store. An interrupted run goes on where it stopped."""
    from .simulation.library import LibraryConfig, make_library

    preset = "fast" if args.fast else "training" if args.training else "full"
    config = LibraryConfig.training(args.layers) if args.training else getattr(LibraryConfig, preset)()
    if args.images is not None:
        config = replace(config, images=args.images)
    if args.size is not None:
        config = replace(config, shape=(args.size, args.size))
    make_library(args.out, config, args.seed, args.workers, args.scheduler)


def _train(args: argparse.Namespace) -> None:
    """Train the U-Net on a library, write weights and model card. An interrupted run goes on from its checkpoint."""
    from .decomposition.training import TrainingConfig, train

    config = TrainingConfig.fast() if args.fast else TrainingConfig.full()
    config = replace(config, **{k: v for k in ("steps", "batch") if (v := getattr(args, k)) is not None})
    command = f"moirelib train --library LIBRARY --out {os.path.basename(args.out)} --steps {config.steps}"
    command = f"{command} --batch {config.batch} --seed {args.seed}"
    if args.start is not None:
        config = replace(config, learning_rate=config.learning_rate / 2)
        command += f" --start {os.path.basename(args.start)}"
    card = train(args.library, args.out, config, args.seed, args.device, command, args.workers, args.start)
    print(f"validation: {card['validation']}")


def _train_layers(args: argparse.Namespace) -> None:
    """Train the network that says which particles lie in one layer, on simulated points."""
    from .decomposition.same_layer_training import train_same_layer

    command = f"moirelib train-layers --out FILE --minutes {args.minutes:g} --seed {args.seed}"
    command += " --start FILE" if args.start else ""
    card = train_same_layer(args.out, args.minutes, args.seed, args.start, command)
    print(f"{card['steps']} steps -> {args.out}")


if __name__ == "__main__":
    sys.exit(main())
