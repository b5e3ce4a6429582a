import { defineConfig } from 'vitest/config';

/** Installs the package from a tarball and compiles it twice: minutes, so apart from the quick tests. */
const packaging = ['test/packaging.test.ts'];

const report = process.env.MARGINFC_TEST_REPORT;

export default defineConfig({
  test: {
    // CI counts the tests from this file.
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: packaging,
          globalSetup: ['test/global_setup.ts'],
          ...(process.env.MARGINFC_TEST_PART && { runner: './test/part_runner.ts' }),
          // By default one of two cores is left to the process that collects results, which seldom needs it. A part has one core.
          maxWorkers: process.env.MARGINFC_TEST_PART ? 1 : '100%',
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: { name: 'packaging', include: packaging, testTimeout: 900_000, hookTimeout: 900_000 },
      },
    ],
  },
});
