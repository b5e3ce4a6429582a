#!/usr/bin/env node
'use strict';
// Stands in for node-gyp when prebuildify runs: ignores node-gyp's flags (cmake-js gives `--target` another
// meaning) and compiles the package in the current folder.

const { compile } = require('./lib/native_build.cjs');

process.exitCode = compile(process.cwd()).ok ? 0 : 1;
