"""What the site shows although it lies outside docs/: pages and pictures that documents link to by ``../``."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "extensions/ndx-calcium-lvm/docs/types.md", "benchmarks/results/*.png")


def on_files(files, config):
    """Add them under their own names."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links of documents find them there, and those pages find the documents."""
    if page.file.src_uri in ("CONTRIBUTING.md", "CHANGELOG.md"):
        return markdown.replace("](docs/", "](")
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown
