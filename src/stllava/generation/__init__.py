"""Everything that makes text, behind one seam: `protocol.Generator`."""
