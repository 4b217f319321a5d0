"""One HTML file that holds a whole result: charts, tables and pictures, without any other file or the network. Ours."""
