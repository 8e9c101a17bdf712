"use strict";
pipecut.start(JSON.parse(document.getElementById("data").textContent));
