// Texts that Python finds in a library's file, and so even where the library cannot be loaded.
#pragma once

#define VLMADAPT_TEXT_OF(...) #__VA_ARGS__
#define VLMADAPT_TEXT(...) VLMADAPT_TEXT_OF(__VA_ARGS__)

// "vlmadapt-LABEL:TEXT" in a variable of that name, where the macros in TEXT are expanded.
#define VLMADAPT_MARKER(variable, label, ...)                                     \
  extern "C" __attribute__((visibility("default"), used)) const char variable[] = \
      "vlmadapt-" label ":" VLMADAPT_TEXT(__VA_ARGS__)
