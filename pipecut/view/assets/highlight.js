"use strict";
/* Python with colours: each token is a text node, or a span of its kind. */
Object.assign(pipecut, (() => {
  const KEYWORDS = new Set(("False None True and as assert async await break class continue def del"
    + " elif else except finally for from global if import in is lambda nonlocal not or pass raise"
    + " return try while with yield match case").split(" "));
  const TOKEN = new RegExp([
    "(?<comment>#[^\\n]*)",
    "(?<string>[rbfuRBFU]{0,2}(?:\"\"\"[\\s\\S]*?\"\"\"|'''[\\s\\S]*?'''"
      + "|\"(?:\\\\.|[^\"\\\\\\n])*\"|'(?:\\\\.|[^'\\\\\\n])*'))",
    "(?<decorator>^[ \\t]*@[\\w.]+)",
    "(?<number>\\b\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?\\b)",
    "(?<word>[A-Za-z_]\\w*)",
  ].join("|"), "gm");

  /* A fragment of the code, token by token. */
  function highlight(code) {
    const fragment = document.createDocumentFragment();
    let at = 0, defines = false;
    for (const match of code.matchAll(TOKEN)) {
      const [kind, text] = Object.entries(match.groups).find(([, value]) => value !== undefined);
      const shown = kind === "word" ? wordKind(text, defines) : kind;
      if (kind === "word") defines = text === "def" || text === "class";
      if (!shown) continue;
      fragment.append(code.slice(at, match.index),
        pipecut.element("span", { class: `py-${shown}`, text }));
      at = match.index + text.length;
    }
    fragment.append(code.slice(at));
    return fragment;
  }

  function wordKind(word, defines) {
    if (defines) return "name";
    if (word === "self") return "self";
    return KEYWORDS.has(word) ? "keyword" : null;
  }

  return { highlight };
})());
