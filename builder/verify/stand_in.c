/* Stands in for one of Windows PE's own programs under Wine: wpeinit, wpeutil, drvload, manage-bde, diskpart.
 *
 * Appends its name and its arguments to X:\stand-ins\calls.log, prints X:\stand-ins\NAME.txt and ends with the number
 * in X:\stand-ins\NAME.rc (0 without such a file). Where X:\stand-ins\NAME.hang exists it never ends.
 *
 * With --stay it does none of that and never ends; with --hold PATH neither, and keeps that file open for itself alone,
 * once X:\stand-ins\held.log is there.
 */
#include <stdio.h>
#include <wchar.h>
#include <windows.h>

static FILE *open_beside(const wchar_t *name, const wchar_t *kind, const wchar_t *mode)
{
    wchar_t path[MAX_PATH];
    swprintf(path, MAX_PATH, L"X:\\stand-ins\\%ls%ls", name, kind);
    return _wfopen(path, mode);
}

static int hold(const wchar_t *path)
{
    if (CreateFileW(path, GENERIC_READ, 0, NULL, OPEN_EXISTING, 0, NULL) == INVALID_HANDLE_VALUE)
        return 1;
    fclose(open_beside(L"held", L".log", L"wb"));
    Sleep(INFINITE);
    return 0;
}

int wmain(int count, wchar_t **arguments)
{
    wchar_t self[MAX_PATH], *name, *dot;
    FILE *file;
    int code = 0, character, index;

    if (count == 3 && !wcscmp(arguments[1], L"--hold"))
        return hold(arguments[2]);
    if (count == 2 && !wcscmp(arguments[1], L"--stay"))
        Sleep(INFINITE);
    GetModuleFileNameW(NULL, self, MAX_PATH);
    name = wcsrchr(self, L'\\');
    name = name ? name + 1 : self;
    if ((dot = wcsrchr(name, L'.')) != NULL)
        *dot = 0;
    if ((file = open_beside(L"calls", L".log", L"ab")) != NULL) {
        fprintf(file, "%ls", name);
        for (index = 1; index < count; index++)
            fprintf(file, " %ls", arguments[index]);
        fputs("\n", file);
        fclose(file);
    }
    if ((file = open_beside(name, L".txt", L"rb")) != NULL) {
        while ((character = getc(file)) != EOF)
            putchar(character);
        fclose(file);
        fflush(stdout);
    }
    if ((file = open_beside(name, L".hang", L"rb")) != NULL)
        Sleep(INFINITE);
    if ((file = open_beside(name, L".rc", L"r")) != NULL) {
        if (fscanf(file, "%d", &code) != 1)
            code = 0;
        fclose(file);
    }
    return code;
}
