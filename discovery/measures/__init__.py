"""What is measured of circuits beside faithfulness: a curve of sizes, each edge left out."""
