/** What tests of errors share. */
import { expect } from 'vitest';
import { MarginFcError } from '../src/index.js';

/** The error that a call throws or rejects with. */
export async function failureOf(call: () => unknown): Promise<MarginFcError> {
  try {
    await call();
  } catch (error) {
    expect(error).toBeInstanceOf(MarginFcError);
    return error as MarginFcError;
  }
  return expect.fail('the call succeeded');
}

export async function expectFailure(call: () => unknown, code: string, message: RegExp): Promise<void> {
  const error = await failureOf(call);
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringMatching(message),
  });
}
