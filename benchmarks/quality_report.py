"""x"""
from pathlib import Path; DOCS=Path("docs")
